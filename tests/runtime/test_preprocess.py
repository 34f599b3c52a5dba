"""From pixels to the network's input: values by hand, every Pillow mode, geometry."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from numclip_runtime import ImageError, ModelMetadata, Preprocessing, Task
from numclip_runtime.preprocess import (
    load_rgb,
    mosaic,
    network_input,
    preprocess,
    resize_and_crop,
    to_input,
)

SPEC = Preprocessing(crop=8, resize=8)


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


def test_to_input_by_hand() -> None:
    spec = Preprocessing(crop=2, resize=2, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.25))
    image = Image.fromarray(np.full((2, 2, 3), (255, 51, 0), np.uint8))
    image.putpixel((1, 0), (0, 0, 255))  # x = 1, y = 0
    out = to_input(image, spec)
    assert out.shape == (3, 2, 2)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_allclose(out[0], [[1, -1], [1, 1]], atol=1e-6)
    np.testing.assert_allclose(out[1], [[0.2, 0], [0.2, 0.2]], atol=1e-6)
    np.testing.assert_allclose(out[2], [[-0.8, 3.2], [-0.8, -0.8]], atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 8), (9, 31), (3, 100), (101, 8)])
def test_even_image_stays_even(size: tuple[int, int], resize_mode: str, interpolation: str) -> None:
    spec = Preprocessing.from_dict(
        {"crop": 8, "resize": 11, "resize_mode": resize_mode, "interpolation": interpolation}
    )
    out = preprocess(Image.new("RGB", size, (200, 100, 50)), spec)
    assert out.shape == (3, 8, 8)
    values = np.array([200, 100, 50]) / 255
    expected = (values - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(out, np.broadcast_to(expected[:, None, None], (3, 8, 8)), atol=1e-6)


def ramp(width: int, height: int) -> Image.Image:
    """Return an image whose red is x and green is y."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "left", "top"),
    [((20, 8), 6, 0), ((8, 21), 0, 6), ((11, 8), 2, 0), ((8, 13), 0, 2), ((8, 8), 0, 0)],
)
def test_shortest_keeps_the_aspect_and_crops_the_centre(
    size: tuple[int, int], left: int, top: int
) -> None:
    # The short side is 8 already: nothing is resized. An odd rest rounds half to even.
    out = pixels(resize_and_crop(ramp(*size), Preprocessing(8, 8, "shortest")))
    assert out.shape == (8, 8, 3)
    assert (out[0, 0, 0], out[0, 0, 1]) == (left, top)
    assert (out[-1, -1, 0], out[-1, -1, 1]) == (left + 7, top + 7)


def test_squash_keeps_the_whole_width() -> None:
    out = pixels(resize_and_crop(ramp(200, 50), SPEC))
    # Each column averages 50 of 200 columns around its own middle; the outer two see fewer.
    np.testing.assert_allclose(out[0, 1:-1, 0], 12.0 + 25 * np.arange(1, 7), atol=1)
    assert 12 < out[0, 0, 0] < 20


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (77, 77, 77)),  # transparency is dropped, not blended
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_mode(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (5, 3), colour).save(tmp_path / "image.tif")
    with Image.open(tmp_path / "image.tif") as stored:
        assert stored.mode == mode
    out = pixels(load_rgb(tmp_path / "image.tif"))
    assert out.shape == (3, 5, 3)
    assert (out == expected).all()


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff"])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30, 255, 255, 255])
    image.putpixel((0, 0), 2)
    image.save(tmp_path / "p.png", transparency=transparency)
    with Image.open(tmp_path / "p.png") as stored:
        assert stored.mode == "P"
    out = pixels(load_rgb(tmp_path / "p.png"))
    assert tuple(out[0, 0]) == (255, 255, 255)
    assert tuple(out[1, 1]) == (10, 200, 30)


GREY_16 = np.array([[0, 257, 1000], [32768, 65278, 65535]])
GREY_8 = [[0, 1, 4], [128, 254, 255]]  # / 257, rounded; clipping would give 255 nearly everywhere


# Older Pillow opens the PNG as mode "I"
@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("I", np.int32)])
def test_16_bit_grey_is_scaled(tmp_path: Path, mode: str, dtype: type) -> None:
    image = Image.fromarray(GREY_16.astype(dtype))
    assert image.mode == mode
    Image.fromarray(GREY_16.astype(np.uint16)).save(tmp_path / "grey.png")
    for source in (image, tmp_path / "grey.png"):
        np.testing.assert_array_equal(pixels(load_rgb(source))[..., 0], GREY_8)


def test_big_endian_16_bit_tiff(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (3, 2), GREY_16.astype(">u2").tobytes())
    image.save(tmp_path / "grey.tif")
    np.testing.assert_array_equal(pixels(load_rgb(tmp_path / "grey.tif"))[..., 2], GREY_8)


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where the mark of the stored top-left pixel ends, (y, x)
    list(enumerate([(0, 0), (0, -1), (-1, -1), (-1, 0)] * 2, start=1)),
)
def test_exif_orientation(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    out = pixels(load_rgb(tmp_path / "turned.png"))
    assert out.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))
    assert tuple(out[corner]) == (255, 0, 0)


def test_arrays() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(load_rgb(rgb)), rgb)
    grey = np.ascontiguousarray(rgb[..., 0])
    np.testing.assert_array_equal(pixels(load_rgb(grey)), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(pixels(load_rgb(rgb[::2, ::-1])), rgb[::2, ::-1])


def test_a_thread_of_an_image_is_refused_before_memory_runs_out() -> None:
    """50,000 x 2 with CLIP's geometry would be resized to 5.6 million x 224: 3.8 GB."""
    spec = Preprocessing(224, 224, "shortest")
    with pytest.raises(ImageError, match="50000 x 2 pixels: too long and narrow"):
        to_input(Image.new("RGB", (50_000, 2)), spec)
    with pytest.raises(ImageError, match="2 x 50000 pixels"):
        to_input(Image.new("RGB", (2, 50_000)), spec)
    assert to_input(Image.new("RGB", (2_000, 10)), spec).shape == (3, 224, 224)
    assert to_input(Image.new("RGB", (50_000, 2)), Preprocessing(224, 256)).shape == (3, 224, 224)


PIECES = Preprocessing(crop=12, resize=12, resize_mode="fragments", fragments=3)


def starts(cell: int, length: int) -> list[int]:
    """Return where the 4 looks of 4 pixels at one of 3 cells begin, in exact arithmetic."""
    shares = [Fraction(2 * look + 1, 8) for look in range(4)]
    places = [(cell + share) * Fraction(length, 3) - share * 3 for share in shares]
    return [min(max(math.floor(place), 0), length - 4) for place in places]


def detail(piece: npt.NDArray[np.uint8]) -> int:
    green = piece[..., 1].astype(int)
    down, across = green[1:] - green[:-1], green[:, 1:] - green[:, :-1]
    return int((down**2).sum() + (across**2).sum())


@pytest.mark.parametrize("size", [(12, 12), (60, 31), (4, 4), (5, 11), (255, 4), (13, 200)])
def test_a_mosaic_has_the_piece_with_most_detail_of_each_cell(size: tuple[int, int]) -> None:
    whole = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = pixels(resize_and_crop(Image.fromarray(whole), PIECES))
    for i in range(3):
        for j in range(3):
            pieces = [
                whole[top : top + 4, left : left + 4]
                for top in starts(i, size[1])
                for left in starts(j, size[0])
            ]
            piece = out[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            np.testing.assert_array_equal(piece, max(pieces, key=detail))


def test_pieces_of_even_pictures_are_the_first_that_are_looked_at() -> None:
    out = pixels(mosaic(ramp(60, 60), PIECES))
    assert [tuple(out[y, x, :2]) for y, x in ((0, 0), (4, 4), (8, 8))] == [
        (2, 2),
        (22, 22),
        (42, 42),
    ]


def test_a_picture_of_the_mosaics_size_is_its_own_mosaic() -> None:
    np.testing.assert_array_equal(pixels(mosaic(ramp(12, 12), PIECES)), pixels(ramp(12, 12)))


@pytest.mark.parametrize(("share", "moved"), [(0.0, 0), (0.25, 4), (0.999, 16)])
def test_places_move_a_piece_inside_its_cell(share: float, moved: int) -> None:
    places = np.zeros((3, 3, 2))
    places[1, 2] = share, 0
    piece = pixels(mosaic(ramp(60, 60), PIECES, places))[4:8, 8:12]
    assert tuple(piece[0, 0][:2]) == (40, 20 + moved)


@pytest.mark.parametrize(("width", "expected"), [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 2])])
def test_a_picture_smaller_than_a_piece_goes_on_as_its_mirror_image(
    width: int, expected: list[int]
) -> None:
    out = pixels(mosaic(ramp(width, 9), PIECES))
    np.testing.assert_array_equal(out[0, :4, 0], expected)
    assert out.shape == (12, 12, 3)


def test_fragments_are_of_the_whole_jpeg_with_fast_decoding_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    task = Task("noise", "", (0, 1, 2), ("low", "high"))
    metadata = ModelMetadata(task, PIECES)
    exact, fast = (
        network_input(tmp_path / "a.jpg", metadata, fast_decode=fast) for fast in (False, True)
    )
    np.testing.assert_array_equal(exact, fast)
