"""Files inside tars, read at their place: an index of each archive, made from its headers.

Nothing is extracted. Not `tarfile`: it takes a damaged header for the end of the archive, loops or
fills memory on some hostile ones, and takes three times as long.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeAlias

from numclip.data.tables import readable
from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.fields import shown
from numclip_runtime.files import open_regular
from numclip_runtime.posix import read_at

TAR_BLOCK = 512  # bytes; headers and contents fill whole ones
MAX_EXTENDED = 1 << 16  # bytes of a long name or of pax attributes
OPEN = 64  # archives that a process keeps open
_FILES = (b"0", b"\0", b"7")  # kinds of members that are files
_OTHERS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_EXTENDED = (b"L", b"K", b"x", b"g")  # a long name, a link's target, attributes of one, of all
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*(?:\0.*)?", re.DOTALL)
TarIndex: TypeAlias = dict[str, "TarMember"]
_IN_PATH = re.compile(r"\.tar[/\\]", re.IGNORECASE)


@dataclass(frozen=True)
class TarMember:
    """A file inside a tar; to be read it needs no other part of the archive."""

    archive: Path
    inside: str  # its name there
    offset: int  # first byte of the content in the archive
    size: int  # bytes
    version: tuple[int, int] = field(repr=False)  # size and time of the archive's last change, ns

    @property
    def path(self) -> Path:
        """Path below the archive, as if that were a folder: shards/a.tar/0001.jpg."""
        return self.archive / self.inside

    @property
    def name(self) -> str:
        """Name in messages."""
        return str(self.path)

    def read(self, limit: int = -1, /) -> bytes:
        """Return the content, or its first `limit` bytes; threads and forks share an open file.

        Raises:
            OSError: if the archive cannot be read, or has changed since it was indexed.
        """
        # kept by a name until the end: another thread may take it out of the cache meanwhile
        opened = _opened(self.archive, self.version)
        size = self.size if limit < 0 else min(limit, self.size)
        return read_at(opened.file, size, self.offset)


class _Archive:
    """An open archive, closed with its last reader."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def __del__(self) -> None:
        self.file.close()


@lru_cache(OPEN)
def _opened(archive: Path, version: tuple[int, int]) -> _Archive:
    opened = _Archive(open_regular(archive))
    if _version(opened.file) != version:
        raise OSError("the archive has changed since it was indexed")
    return opened


def _version(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def member_at(path: Path, indices: dict[Path, TarIndex]) -> TarMember | None:
    """Return the member that a path names, such as shards/a.tar/0001.jpg; None if there is none.

    Args:
        path: Path that is no file.
        indices: Of the archives that were met before; a new one is added.

    Raises:
        UsageError: if the archive cannot be read.
    """
    text = str(path)
    for match in _IN_PATH.finditer(text):
        archive, inside = Path(text[: match.end() - 1]), text[match.end() :].replace(os.sep, "/")
        if archive not in indices:
            if not archive.is_file():
                continue
            indices[archive] = tar_index(archive)
        return indices[archive].get(inside)
    return None


def tar_index(archive: Path) -> TarIndex:
    """Return the files of an archive by name, in their order; folders are left out.

    Args:
        archive: Tar in the format of ustar, pax or GNU.

    Raises:
        UsageError: if it is no tar, compressed, damaged or cut off, has links, devices, sparse
            members, or two of one name.
    """
    found: TarIndex = {}
    with readable(archive, "tar"), open_regular(archive) as file:
        version = _version(file)
        for name, offset, size in _members(archive, file, version[0]):
            if name in found:
                raise _refused(archive, f"has two members {shown(name)}; keep one of them")
            found[name] = TarMember(archive, name, offset, size, version)
    return found


def _refused(archive: Path, reason: str) -> UsageError:
    return UsageError(f"{visible(archive)}: {reason}.")


def _members(archive: Path, file: BinaryIO, total: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each file."""
    place, long_name, long_size, sparse = 0, "", None, False
    while (header := read_at(file, TAR_BLOCK, place)).strip(b"\0"):
        if place == 0:
            _check_kind(archive, header)
        if not _is_header(header):
            raise _refused(archive, f"is damaged or cut off at byte {place:,}; write it anew")
        kind, offset = header[156:157], place + TAR_BLOCK
        size = _number(header[124:136]) if long_size is None else long_size
        name = long_name or _name(header)
        if size < 0 or offset + size > total:
            raise _refused(archive, f"is cut off: {shown(name)} would end behind it; write it anew")
        place = offset + -(-size // TAR_BLOCK) * TAR_BLOCK
        if kind in _EXTENDED:
            if size > MAX_EXTENDED:
                raise _refused(archive, f"has {size:,} bytes of a name or attributes at one member")
            content = read_at(file, size, offset)
            if kind == b"L":
                long_name = _text(content.partition(b"\0")[0])
            elif kind in (b"x", b"g"):
                found = _attributes(archive, content)
                sparse |= any(key.startswith(b"GNU.sparse") for key in found)
                if kind == b"x":
                    long_name = _text(found.get(b"path", b"")) or long_name
                    long_size = _decimal(found[b"size"]) if b"size" in found else None
            continue
        long_name, long_size = "", None
        if kind == b"5" or (kind in _FILES and name.endswith("/")):
            continue
        if sparse or kind == b"S" or kind not in _FILES:
            what = "a sparse file" if sparse or kind == b"S" else _OTHERS.get(kind, "no plain file")
            raise _refused(archive, f"the member {shown(name)} is {what}; put plain files into it")
        yield _checked_name(archive, name), offset, size
    _check_end(archive, file, place, total)


def _check_kind(archive: Path, header: bytes) -> None:
    for magic, kind in _COMPRESSED.items():
        if header.startswith(magic):
            raise _refused(
                archive,
                f"is compressed ({kind}); images are read at their places, so unpack it to a plain "
                "tar",
            )
    if not _is_header(header):
        raise _refused(archive, "is not a tar")


def _is_header(header: bytes) -> bool:
    """Return whether the checksum is right: the sum of the bytes, its own field as blanks."""
    if len(header) < TAR_BLOCK:
        return False
    given, others = _number(header[148:156]) - 8 * 32, header[:148] + header[156:]
    # some old programs took the bytes for signed ones
    return given == sum(others) or given == sum(struct.unpack("504b", others))


def _number(digits: bytes) -> int:
    """Return a number in octal, or in base 256 behind the byte 128; -1 if it is neither."""
    if digits[0] == 128:
        return int.from_bytes(digits[1:], "big")
    match = _OCTAL.fullmatch(digits)
    return int(match[1] or b"0", 8) if match else -1


def _decimal(digits: bytes) -> int:
    return int(digits) if digits.isdigit() and len(digits) < 20 else -1


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _attributes(archive: Path, content: bytes) -> dict[bytes, bytes]:
    """Return pax attributes, each of which is written as its length, a blank, KEY=VALUE, LF."""
    found, start = dict[bytes, bytes](), 0
    while start < len(content) and content[start : start + 1] != b"\0":
        length, _, rest = content[start : start + 20].partition(b" ")
        end = start + int(length) if length.isdigit() and rest else start
        key, equals, value = content[start + len(length) + 1 : end - 1].partition(b"=")
        if not start + len(length) < end <= len(content) or not equals:
            raise _refused(archive, "has damaged pax attributes; write it anew")
        found[key] = value
        start = end
    return found


def _checked_name(archive: Path, name: str) -> str:
    """Return a member's name as one below the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise _refused(archive, f"the member {shown(name)} has a name outside the archive")
    return "/".join(parts)


def _check_end(archive: Path, file: BinaryIO, place: int, total: int) -> None:
    """Refuse an archive that may hold more than was found: it would be missing without a word."""
    if place >= total:
        raise _refused(
            archive,
            "is empty"
            if total == 0
            else "has no end mark, so it may have been cut off; write it anew, or add the mark: "
            "1,024 zero bytes",
        )
    if read_at(file, min(total - place, 1 << 20), place).strip(b"\0"):
        raise _refused(archive, "goes on behind its end mark, as two joined tars do; write it anew")
