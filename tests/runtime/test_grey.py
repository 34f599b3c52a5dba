"""Grey pictures of every depth: black is 0, white is 255, whichever number the file has for it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from numclip_runtime import ImageError
from numclip_runtime.images.decode import load_rgb

WIDTH, HEIGHT = 37, 22
RNG = np.random.default_rng(0)


def packed(numbers: npt.NDArray[Any], bits: int, order: str) -> bytes:
    """Return rows of numbers, each row padded to whole bytes."""
    if bits in (16, 32):
        return numbers.astype(f"{order}u{bits // 8}").tobytes()
    every = (numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(every.reshape(len(numbers), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    numbers: npt.NDArray[Any], bits: int, *, white: int, rows: int, order: str = "<", kind: int = 1
) -> bytes:
    """Return an uncompressed TIFF; tag 262 is `white`: 0 if 0 is white, else 1."""
    strips = [packed(numbers[at : at + rows], bits, order) for at in range(0, HEIGHT, rows)]
    count = len(strips)
    data = 8 + 2 + 12 * 10 + 4 + 8 * count
    offsets = [data + sum(map(len, strips[:i])) for i in range(count)]
    place = 8 + 2 + 12 * 10 + 4

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        field = (
            struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        )
        return struct.pack(f"{order}HHI", tag, kind, count) + field

    one = count == 1
    entries = [
        entry(256, 3, 1, WIDTH),
        entry(257, 3, 1, HEIGHT),
        entry(258, 3, 1, bits),
        entry(259, 3, 1, 1),
        entry(262, 3, 1, white),
        entry(273, 4, count, offsets[0] if one else place),
        entry(277, 3, 1, 1),
        entry(278, 3, 1, rows),
        entry(279, 4, count, len(strips[0]) if one else place + 4 * count),
        entry(339, 3, 1, kind),
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    lists = struct.pack(f"{order}{2 * count}I", *offsets, *map(len, strips))
    directory = struct.pack(f"{order}H", 10) + b"".join(entries) + struct.pack(f"{order}I", 0)
    return head + directory + lists + b"".join(strips)


def grey(source: Any) -> npt.NDArray[np.uint8]:
    found = np.asarray(load_rgb(source))
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("rows", [HEIGHT, 5, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_tiff(bits: int, white: int, rows: int, order: str) -> None:
    if (bits, order) == (12, ">"):
        pytest.skip("Pillow reads 12 bits of little-endian files only")
    top = (1 << bits) - 1
    numbers = RNG.integers(0, top + 1, (HEIGHT, WIDTH))
    numbers[0, :2] = 0, top
    levels = np.rint(numbers * (255 / top)).astype(np.uint8)
    expected = 255 - levels if white == 0 else levels
    np.testing.assert_array_equal(
        grey(tiff(numbers, bits, white=white, rows=rows, order=order)), expected
    )


def test_12_bits_of_a_big_endian_tiff_are_no_other_numbers() -> None:
    content = tiff(np.zeros((HEIGHT, WIDTH), int), 12, white=1, rows=HEIGHT, order=">")
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_rgb(content)


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_16_bits(white: int, compression: str) -> None:
    numbers = RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(numbers).save(buffer, "TIFF", compression=compression, tiffinfo={262: white})
    levels = np.rint(numbers / 257).astype(np.uint8)
    np.testing.assert_array_equal(grey(buffer.getvalue()), 255 - levels if white == 0 else levels)


@pytest.mark.parametrize(
    ("bits", "kind", "message"),
    [
        (32, 1, "32-bit pixels"),
        (32, 2, "signed pixels"),
        (16, 2, "signed pixels"),
        (8, 2, "signed pixels"),
        (32, 3, "float pixels"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_unknown_white_is_refused(bits: int, kind: int, message: str, order: str) -> None:
    numbers = RNG.integers(0, 200, (HEIGHT, WIDTH))
    content = tiff(numbers, bits, white=1, rows=HEIGHT, order=order, kind=kind)
    with pytest.raises(ImageError, match=rf"{message}, whose white value is unknown|unknown pixel"):
        load_rgb(content)
    with (
        Image.open(io.BytesIO(tiff(numbers, 32, white=1, rows=HEIGHT))) as image,
        pytest.raises(ImageError, match="32-bit pixels"),
    ):
        load_rgb(image)


@pytest.mark.parametrize("top", [1, 100, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_pgm_scales_by_its_own_white(top: int, plain: bool) -> None:
    numbers = RNG.integers(0, top + 1, (HEIGHT, WIDTH))
    head = f"P{2 if plain else 5}\n# a comment\n{WIDTH} {HEIGHT}\n{top}\n".encode()
    text = " ".join(map(str, numbers.ravel().tolist())).encode()
    data = text if plain else numbers.astype(np.uint8 if top < 256 else ">u2").tobytes()
    np.testing.assert_allclose(grey(head + data), np.rint(numbers * (255 / top)), atol=1)


def test_the_first_picture_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (200, 0, 30)]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert (grey(tmp_path / name) == 200).all(), name


def test_inverted_cmyk_and_lab(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.save(tmp_path / "a.jpg", quality=100)  # Pillow writes Adobe's marker, and inverts
    assert (
        np.abs(np.asarray(load_rgb(tmp_path / "a.jpg"))[0, 0].astype(int) - (255, 0, 0)).max() < 4
    )
    Image.new("LAB", (8, 8), (255, 128, 128)).save(tmp_path / "a.tif")
    assert np.asarray(load_rgb(tmp_path / "a.tif")).min() > 250
