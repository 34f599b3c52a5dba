"""Only the orientation of EXIF is read: what else stands there may be odd."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime.images.decode import load_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def entry(tag: int, kind: int, count: int, value: bytes, order: str) -> bytes:
    return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")


ODD = {  # EXIF that Pillow cannot write again, or cannot read
    "negative position": lambda o: [
        entry(0x8825, 4, 1, struct.pack(f"{o}I", 60), o),
        entry(0x829A, 10, 1, struct.pack(f"{o}I", 4), o),
    ],
    "type unknown": lambda o: [entry(0x9000, 99, 9, b"abcd", o)],
    "beyond the end": lambda o: [entry(0x927C, 7, 5000, struct.pack(f"{o}I", 1 << 30), o)],
    "text for a number": lambda o: [entry(0x011A, 2, 4, b"abc", o), entry(0x0128, 2, 2, b"x", o)],
    "none of a number": lambda o: [entry(0x8769, 4, 0, b"", o)],
    "directory in itself": lambda o: [entry(0x8769, 4, 1, struct.pack(f"{o}I", 8), o)],
}


def exif(turned: int, odd: str, order: str) -> bytes:
    entries = [entry(0x0112, 3, 1, struct.pack(f"{order}H", turned), order), *ODD[odd](order)]
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries)
    return b"Exif\0\0" + head + struct.pack(f"{order}I", 8) + directory + b"\0\0"


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, kind, **options)
    return buffer.getvalue()


UPRIGHT = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("turned", range(1, 9))
def test_odd_exif(odd: str, turned: int, order: str) -> None:
    block = exif(turned, odd, order)
    for kind in ("PNG", "WEBP"):
        content = saved(kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
        upright = load_rgb(content)
        np.testing.assert_array_equal(np.asarray(upright), UPRIGHT[turned])
        # what was turned is not turned again
        np.testing.assert_array_equal(np.asarray(load_rgb(upright)), UPRIGHT[turned])
    jpeg = load_rgb(saved("JPEG", exif=block, quality=100, subsampling=0))
    assert np.abs(np.asarray(jpeg).astype(int) - UPRIGHT[turned]).max() < 8
    given = Image.open(io.BytesIO(saved("PNG", exif=block)))
    np.testing.assert_array_equal(np.asarray(load_rgb(given)), UPRIGHT[turned])


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_tiff(tmp_path: Path, turned: int, compression: str | None) -> None:
    IMAGE.save(tmp_path / "a.tif", tiffinfo={274: turned}, compression=compression)
    np.testing.assert_array_equal(np.asarray(load_rgb(tmp_path / "a.tif")), UPRIGHT[turned])
    with Image.open(tmp_path / "a.tif") as given:
        np.testing.assert_array_equal(np.asarray(load_rgb(given)), UPRIGHT[turned])


def test_orientation_in_xmp_counts_without_exif() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = saved("WEBP", lossless=True, xmp=xmp)
    np.testing.assert_array_equal(np.asarray(load_rgb(content)), UPRIGHT[6])
    content = saved("WEBP", lossless=True, xmp=xmp, exif=exif(3, "type unknown", "<"))
    np.testing.assert_array_equal(np.asarray(load_rgb(content)), UPRIGHT[3])
