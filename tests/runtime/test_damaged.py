"""Pictures with damage that takes no pixel are read; those that lack pixels are not."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from numclip_runtime import ImageError
from numclip_runtime.images.decode import decode, load_rgb

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (123, 77, 3), dtype=np.uint8))
SMOOTH = NOISE.resize((9, 9)).resize((400, 300), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(png: bytes, *chunks: bytes, at: int = 33) -> bytes:
    """Return a PNG with chunks after its header, or elsewhere."""
    return png[:at] + b"".join(chunks) + png[at:]


def pixels(source: Any, least: int | None = None) -> Any:
    return np.asarray(decode(source, least=least).image)


JPEGS: list[dict[str, Any]] = [
    {},
    {"quality": 95, "subsampling": 0},
    {"progressive": True},
    {"progressive": True, "quality": 30},
    {"restart_marker_rows": 1},
    {"optimize": True},
]


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("image", [NOISE, SMOOTH, NOISE.convert("L"), NOISE.convert("CMYK")])
def test_a_jpeg_without_its_end(image: Image.Image, options: dict[str, Any]) -> None:
    whole = saved(image, "JPEG", **options)
    assert whole.endswith(b"\xff\xd9")
    for cut in (1, 2):
        np.testing.assert_array_equal(pixels(whole[:-cut]), pixels(whole))
        np.testing.assert_array_equal(pixels(whole[:-cut], 20), pixels(whole, 20))


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("image", [NOISE, SMOOTH, NOISE.convert("L")])
def test_a_jpeg_that_lacks_pixels(image: Image.Image, options: dict[str, Any]) -> None:
    whole = saved(image, "JPEG", **options)
    for lost in (5, 8, 20, 200, len(whole) // 3, len(whole) // 2):
        with pytest.raises(ImageError, match=r"truncated|cannot be decoded"):
            load_rgb(whole[:-lost])


def test_a_progressive_jpeg_that_ends_between_two_scans() -> None:
    whole = saved(NOISE, "JPEG", progressive=True)
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 5
    tables = [whole.rfind(b"\xff\xc4", 0, at) for at in starts]
    for at in (*starts[1:], *tables[2:]):
        with pytest.raises(ImageError, match="truncated"):
            load_rgb(whole[:at])


def test_a_png_with_much_text_or_a_large_profile() -> None:
    plain = saved(NOISE, "PNG")
    noise = np.random.default_rng(1).bytes(3 << 20)
    text = chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20))
    packed = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"y" * (9 << 20)))
    international = chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"z" * (9 << 20)))
    profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(noise))
    for extra in (text, packed, international, profile, text + packed + profile):
        for at in (33, len(plain) - 12):  # before the pixels, and after
            np.testing.assert_array_equal(pixels(with_chunks(plain, extra, at=at)), pixels(plain))


def test_a_png_keeps_its_orientation_and_profile() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = saved(NOISE, "PNG", exif=exif, icc_profile=b"p" * 200)
    damaged = with_chunks(plain, chunk(b"tEXt", b"k\0" + b"x" * (2 << 20)))
    np.testing.assert_array_equal(pixels(damaged), pixels(plain))
    assert load_rgb(damaged).size == (123, 77)
    assert load_rgb(damaged).info["icc_profile"] == b"p" * 200


def test_a_wrong_checksum_of_a_comment() -> None:
    plain, bad = saved(NOISE, "PNG"), bytearray(chunk(b"tEXt", b"Comment\0hello"))
    bad[-1] ^= 1
    for at in (33, len(plain) - 12):
        damaged = with_chunks(plain, bytes(bad), at=at)
        np.testing.assert_array_equal(pixels(damaged), pixels(plain))


def test_a_png_that_lacks_pixels() -> None:
    whole = saved(NOISE, "PNG")
    for lost in (40, 200, len(whole) // 2):
        with pytest.raises(ImageError, match="cannot be decoded"):
            load_rgb(whole[:-lost])
    np.testing.assert_array_equal(pixels(whole[:-12]), pixels(whole))  # only its end is missing


def test_pillows_own_limits_stay() -> None:
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    load_rgb(with_chunks(saved(NOISE, "PNG"), chunk(b"tEXt", b"k\0" + b"x" * (2 << 20))))
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
