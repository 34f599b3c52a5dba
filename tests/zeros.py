"""Compressed zeros, for files that unpack to gigabytes."""

from __future__ import annotations

import struct
import zlib


def zeros(count: int) -> bytes:
    """Return `count` zero bytes as a zlib stream, made without compressing them."""
    block = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    whole, rest = divmod(count, block)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = last.compress(bytes(rest)) + last.flush()
    adler = (count % 65521) << 16 | 1
    return b"\x78\x9c" + packed * whole + tail + struct.pack(">I", adler)
