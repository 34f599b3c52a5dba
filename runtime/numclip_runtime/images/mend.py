"""Pictures that Pillow refuses although all of their pixels are there.

A JPEG without its end marker, and a PNG whose text or colour profile is damaged or above 1 MB.
Pillow has switches for them, which would change every other use of Pillow in the process.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from numclip_runtime.images.signatures import signature

# Bits that follow a JPEG's data in place of its end. Pixels that need one of them would differ; two
# patterns do not suffice: in the usual tables, 00 and the error 1111 both end a block of colours.
_PATTERNS = (b"\0", b"\xff\0", b"\x55", b"\xaa", b"\x9c\x27\xd1\x4e\x63\xb8")
_FILLERS = tuple(pattern * 1024 + b"\xff\xd9" for pattern in _PATTERNS)
_MARKER = re.compile(rb"\xff[^\0\1\xff\xd0-\xd7]")
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # the only ones of C0 to CF that begin no frame
_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # may hold the orientation
_LARGEST_TEXT, _LARGEST_PROFILE = 1 << 16, 1 << 20  # bytes; Pillow's own limit is the latter


def mended(content: bytes) -> Iterator[bytes]:
    """Yield contents to decode in place of one that failed; all must give the same pixels.

    Args:
        content: Of the file.

    Yields:
        Nothing if there is no hope.
    """
    kind = signature(content[:512])
    if kind == "PNG":
        yield b"".join(_essential_chunks(content))
    elif kind == "JPEG" and _has_all_scans(content):
        data = content.rstrip(b"\xff")
        yield from (data + filler for filler in _FILLERS)


def _essential_chunks(png: bytes) -> Iterator[bytes]:
    """Yield what the pixels and the orientation of a PNG need, and its colour profile."""
    yield png[:8]
    at = 8
    while at + 8 <= len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        end = at + 12 + length
        chunk = memoryview(png)[at:end]
        if (
            not kind[0] & 0x20
            or (  # a capital letter: critical
                zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
                and _is_wanted(
                    kind, bytes(chunk[8 : min(8 + length, 8 + _LARGEST_PROFILE)]), length
                )
            )
        ):
            yield bytes(chunk)
        if kind == b"IEND":
            return
        at = end


def _is_wanted(kind: bytes, data: bytes, length: int) -> bool:
    if kind == b"iCCP":
        unpacking = zlib.decompressobj()
        try:
            unpacking.decompress(data.partition(b"\0")[2][1:], _LARGEST_PROFILE)
        except zlib.error:
            return False
        return unpacking.eof
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return length <= _LARGEST_TEXT and data.partition(b"\0")[0] in _TEXTS
    return kind in (b"tRNS", b"eXIf")


def _has_all_scans(jpeg: bytes) -> bool:
    """Return whether scans for all coefficients have begun, to their last bit."""
    missing: dict[int, int] = {}  # component -> bits of its 64 coefficients
    at = 2
    while found := _MARKER.search(jpeg, at):
        marker, start = jpeg[found.start() + 1], found.end()
        if marker == 0xD9:
            break
        length = int.from_bytes(jpeg[start : start + 2], "big")
        segment = jpeg[start + 2 : start + length]
        if length < 2 or len(segment) < length - 2:
            return False
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            missing = dict.fromkeys(segment[6 : 6 + 3 * segment[5] : 3], (1 << 64) - 1)
        elif marker == 0xDA:
            count = segment[0]
            first, last, precision = segment[1 + 2 * count : 4 + 2 * count]
            if precision & 15 == 0:
                sent = (1 << (last + 1)) - (1 << first)
                for number in segment[1 : 1 + 2 * count : 2]:
                    missing[number] = missing.get(number, 0) & ~sent
        at = start + length
    return bool(missing) and not any(missing.values())
