"""Readers of sources that take their time: a list of paths on standard input, a camera."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from io import RawIOBase
from queue import Empty, Full, Queue
from typing import BinaryIO, Generic, TypeVar

from numclip_runtime.errors import UsageError

_T = TypeVar("_T")

BLOCK = 1 << 16  # bytes; also the longest line: no system has paths beyond 32 KiB


def standard_input() -> BinaryIO | RawIOBase:
    """Return standard input for bytes, unbuffered if possible.

    An unbuffered read returns the bytes that have come so far instead of waiting for a full block,
    and a thread that waits in it does not hold a lock that Python needs at exit.

    Raises:
        UsageError: if it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("-: standard input is closed; pipe a list of paths into it.")
    buffer = sys.stdin.buffer
    raw = getattr(buffer, "raw", None)
    return raw if isinstance(raw, RawIOBase) else buffer


def read_paths(stream: BinaryIO | RawIOBase, *, null: bool = False) -> Iterator[str]:
    """Yield the paths of a list as they come; empty lines are skipped.

    Args:
        stream: Bytes; read in blocks, never further than needed.
        null: Paths end with a NUL character (`find -print0`) instead of a line break.

    Raises:
        UsageError: if it is not a list of paths.
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


class BackgroundReader(Generic[_T]):
    """Read a slow source in a thread, so that ready items can be taken without waiting for more.

    A pipeline that decodes ahead would hold back finished results until the source yields its next
    item. It gets groups of ready items instead, and finishes each group before it waits.

    Args:
        source: Read by the thread alone, at most `capacity` items ahead.
        capacity: Largest number of waiting items.
        newest_only: Drop the oldest waiting item if the source is faster than its reader, as for a
            camera; otherwise the source waits.
    """

    def __init__(
        self, source: Iterable[_T], *, capacity: int = 256, newest_only: bool = False
    ) -> None:
        self._queue: Queue[_T | _End] = Queue(capacity)
        self._newest_only = newest_only
        self._stopped = threading.Event()
        self._ended = False
        # A daemon: waiting for input that never comes must not keep the process alive
        self._thread = threading.Thread(
            target=self._read, args=(source,), name="numclip-reader", daemon=True
        )
        self._thread.start()

    def ready(self) -> Iterator[Iterator[_T]]:
        """Yield iterators over the ready items; wait for the source only between them.

        Raises:
            Exception: of the source, once the items before have been taken.
        """
        while not self._ended:
            item = self._queue.get()
            if not self._is_end(item):
                yield self._until_empty(item)

    def close(self) -> None:
        """Stop the thread, unless the source keeps it waiting."""
        self._stopped.set()
        self._drain()
        self._thread.join(timeout=0.2)

    def _until_empty(self, item: _T | _End) -> Iterator[_T]:
        while not self._is_end(item):
            assert not isinstance(item, _End)
            yield item
            try:
                item = self._queue.get_nowait()
            except Empty:
                return

    def _is_end(self, item: _T | _End) -> bool:
        if not isinstance(item, _End):
            return False
        self._ended = True
        if item.error is not None:
            raise item.error
        return True

    def _read(self, source: Iterable[_T]) -> None:
        error: BaseException | None = None
        try:
            for item in source:
                if self._newest_only and self._queue.full():
                    self._drain()
                self._put(item)
                if self._stopped.is_set():
                    break
        except BaseException as caught:  # raised again where the items are taken
            error = caught
        self._put(_End(error))

    def _put(self, item: _T | _End) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except Full:
                continue

    def _drain(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            pass


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
