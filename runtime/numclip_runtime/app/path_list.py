"""A list of paths on standard input: what `find` and `git ls-files` write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO

from numclip_runtime.errors import UsageError

BLOCK = 1 << 16  # bytes; also the longest line: no system has paths beyond 32 KiB


def standard_input() -> BinaryIO | RawIOBase:
    """Return standard input for bytes, unbuffered where that is possible.

    Unbuffered, a read gives what has come so far instead of waiting for a full block, and a thread
    that waits in it holds no lock that Python needs when it ends.

    Raises:
        UsageError: if it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("-: standard input is closed; pipe a list of paths into it.")
    buffer = sys.stdin.buffer
    raw = getattr(buffer, "raw", None)
    return raw if isinstance(raw, RawIOBase) else buffer


def read_paths(stream: BinaryIO | RawIOBase, *, null: bool = False) -> Iterator[str]:
    """Yield the paths of a list as they come; empty lines are left out.

    Args:
        stream: Bytes; read in blocks, never further than needed.
        null: Paths end with a NUL character (`find -print0`) instead of a line break.

    Raises:
        UsageError: if this is no list of paths.
    """
    separator, rest, start = (b"\0" if null else b"\n"), b"", True
    while block := stream.read(BLOCK):
        if start:
            block, start = block.removeprefix(b"\xef\xbb\xbf"), False  # Windows tools write a BOM
        *lines, rest = (rest + block).split(separator)
        yield from filter(None, (_path(line, null) for line in lines))
        if len(rest) > BLOCK:
            raise UsageError(f"-: no path ends within {BLOCK} bytes; {_wanted(null)}")
    if path := _path(rest, null):
        yield path


def _path(line: bytes, null: bool) -> str:
    if not null:
        line = line.removesuffix(b"\r")
        if b"\0" in line:
            raise UsageError(f"-: the list holds NUL characters; {_wanted(null)}")
    return os.fsdecode(line)


def _wanted(null: bool) -> str:
    other = "" if null else " (or paths that end with NUL, and --null)"
    return f"pipe in {'paths that end with NUL' if null else 'one path per line'}{other}."
