"""Walk the fields of a protobuf message where it lies, without the protobuf package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = "mmap | bytes"

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types


class Field(NamedTuple):
    """One field of a message, by its place in the buffer."""

    number: int
    kind: int  # wire type
    first: int  # where its tag starts
    start: int  # where its content starts: of a text, a message or a number
    end: int


@contextmanager
def content_of(path: Path) -> Iterator[Buffer]:
    """Yield a file's content: mapped, or read where a file system maps nothing."""
    with path.open("rb") as file:
        try:
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
        except (OSError, ValueError):  # ValueError: the file is empty
            yield file.read()
            return
        with mapped:
            yield mapped


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield the fields between two places.

    Raises:
        ValueError: if there is something else.
    """
    while start < end:
        tag, content = buffer[start], start + 1  # nearly all are below 128
        if tag > 0x7F:
            tag, content = varint(buffer, start, end)
        kind = tag & 7
        if kind == LENGTH:
            length, content = varint(buffer, content, end)
            after = content + length
        elif kind == VARINT:
            _, after = varint(buffer, content, end)
        elif kind in (FIXED32, FIXED64):
            after = content + (4 if kind == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if after > end:
            raise ValueError("ends early")
        yield Field(tag >> 3, kind, start, content, after)
        start = after


def varint(buffer: Buffer, start: int, end: int) -> tuple[int, int]:
    """Return a number and where it ends.

    Raises:
        ValueError: if there is none.
    """
    value = shift = 0
    for place in range(start, min(end, start + 10)):
        byte = buffer[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("no varint of 64 bits")


def encoded(number: int) -> bytes:
    """Return a number >= 0 as a varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(number: int, *parts: bytes) -> bytes:
    """Return a field whose content is a text or a message."""
    return b"".join((encoded(number << 3 | LENGTH), encoded(sum(map(len, parts))), *parts))
