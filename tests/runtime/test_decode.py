"""Decoding: exactly the textbook's pixels without its copies; fast, close and in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from numclip_runtime import ModelMetadata, Preprocessing
from numclip_runtime.images.decode import decode, load_rgb
from numclip_runtime.metadata import Interpolation, ResizeMode
from numclip_runtime.preprocess import network_input, resize_and_crop
from numclip_runtime.task import Task

ORIENTATION = 0x0112
RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8))


def textbook(path: Path) -> Image.Image:
    """What training read before: a copy per step."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def textbook_resize(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Resize all of the image, then crop."""
    w, h = image.size
    long = int(spec.resize * max(w, h) / min(w, h))
    size = (spec.resize, long) if w <= h else (long, spec.resize)
    if spec.resize_mode == "squash":
        size = (spec.resize, spec.resize)
    by = Image.Resampling[spec.interpolation.upper()]
    left, top = (round((side - spec.crop) / 2) for side in size)
    return image.resize(size, by).crop((left, top, left + spec.crop, top + spec.crop))


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def scene(width: int, height: int) -> Image.Image:
    """Return waves, the shortest 18 pixels: detail that shows where it is, at 1/2 size too."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [np.sin(x / a + y / b) for a, b in ((3, 19), (-17, 2.8), (5, -4))]
    return Image.fromarray((127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / float(error))


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", [None, *range(1, 9), 0, 9])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exact_pixels_are_the_textbooks(tmp_path: Path, name: str, orientation: int | None) -> None:
    options = {} if orientation is None else {"exif": with_orientation(orientation)}
    path = save(tmp_path / name, NOISE, **options)
    expected = pixels(textbook(path))
    assert expected.shape == ((50, 37, 3) if orientation in range(5, 9) else (37, 50, 3))
    np.testing.assert_array_equal(pixels(load_rgb(path)), expected)
    decoded = decode(path)
    assert (decoded.scale, decoded.box) == (1, (0, 0, *decoded.image.size))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (224, 224), (8, 7), (40, 9), (7, 5)])
def test_exact_input_is_resized_whole_then_cropped(
    resize: int, crop: int, resize_mode: ResizeMode, interpolation: Interpolation
) -> None:
    """Resizing only the part in the crop is faster, and not the same to the bit."""
    spec = Preprocessing(crop, resize, resize_mode, interpolation)
    sizes = [(640, 480), (256, 300), (300, 224), (8, 500), (1, 1), (257, 1023), (40, 40)]
    sizes += [tuple(side) for side in RNG.integers(2, 700, (25, 2)).tolist()]
    for width, height in sizes:
        image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
        got, expected = resize_and_crop(image, spec), textbook_resize(image, spec)
        np.testing.assert_array_equal(pixels(got), pixels(expected), err_msg=str((width, height)))


def images_made(call: Callable[[], object]) -> int:
    """Count the images that Pillow allocates meanwhile."""
    core: Any = Image.core  # type: ignore[attr-defined]
    core.reset_stats()
    call()
    made = core.get_stats()["new_count"]
    assert isinstance(made, int)
    return made


def test_no_image_is_made_that_is_not_needed(tmp_path: Path) -> None:
    upright = save(tmp_path / "a.jpg", NOISE)
    turned = save(tmp_path / "b.jpg", NOISE, exif=with_orientation(6))
    grey = save(tmp_path / "c.png", NOISE.convert("L"))
    assert images_made(lambda: load_rgb(upright)) == 1
    assert images_made(lambda: load_rgb(turned)) == 2
    assert images_made(lambda: load_rgb(grey)) == 2
    assert images_made(lambda: decode(NOISE)) == 0
    assert images_made(lambda: decode(pixels(NOISE))) == 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_callers_image_is_not_touched(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", NOISE, exif=with_orientation(orientation))
    with Image.open(path) as opened:
        given = opened.copy()
    got = load_rgb(given)
    np.testing.assert_array_equal(pixels(got), pixels(textbook(path)))
    got.paste((1, 2, 3), (0, 0, *got.size))  # load_rgb's is ours to draw on
    np.testing.assert_array_equal(pixels(given), pixels(NOISE))
    assert given.getexif()[ORIENTATION] == orientation


def test_a_lazily_opened_image_stays_whole(tmp_path: Path) -> None:
    """Fast decoding is for files: an image of the caller's would shrink for the caller as well."""
    path = save(tmp_path / "a.jpg", NOISE)
    with Image.open(path) as given:
        assert decode(given, least=4).scale == 1
        assert given.size == NOISE.size


@pytest.mark.parametrize(
    ("size", "least", "scale"),
    [
        ((64, 48), 25, 1),
        ((64, 48), 24, 2),
        ((48, 64), 13, 2),
        ((64, 48), 12, 4),
        ((64, 48), 6, 8),
        ((64, 48), 1, 8),
        ((99, 24), 24, 1),  # both sides count
        ((24, 99), 13, 1),
    ],
)
def test_scale(tmp_path: Path, size: tuple[int, int], least: int, scale: int) -> None:
    path = save(tmp_path / "a.jpg", scene(*size))
    decoded = decode(path, least=least)
    assert decoded.scale == scale
    assert decoded.image.size == (math.ceil(size[0] / scale), math.ceil(size[1] / scale))
    assert min(decoded.image.size) >= least
    assert decoded.box == (0, 0, size[0] / scale, size[1] / scale)


def metadata(spec: Preprocessing) -> ModelMetadata:
    return ModelMetadata(Task("t", "", (0, 1, 2), ("a", "b")), spec, input="uint8")


@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(193, 129), (131, 197), (160, 160)])
def test_fast_input_lies_where_the_exact_one_does(
    tmp_path: Path, size: tuple[int, int], orientation: int, resize_mode: ResizeMode
) -> None:
    """Sizes that no 2 divides: the rest of a pixel must stay outside, whichever side it is on."""
    path = save(tmp_path / "a.jpg", scene(*size), quality=95, exif=with_orientation(orientation))
    spec = Preprocessing(28, 32, resize_mode)
    assert decode(path, least=64).scale == 2
    fast = network_input(path, metadata(spec), fast_decode=True)
    exact = network_input(path, metadata(spec))
    assert fast.shape == (28, 28, 3)
    assert not np.array_equal(fast, exact)
    assert psnr(fast, exact) > 38  # 39.5 to 42; with the rest of the pixel inside 28 to 29


# name -> (mode, options of the JPEG encoder)
JPEGS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "4:2:0": ("RGB", {"subsampling": 2}),
    "4:1:1": ("RGB", {"subsampling": "4:1:1"}),
    "progressive": ("RGB", {"progressive": True}),
    "restart markers": ("RGB", {"restart_marker_blocks": 5}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {}),
    "not YCbCr": ("RGB", {"keep_rgb": True}),
    "several pictures": ("RGB", {"format": "MPO", "save_all": True, "append_images": [NOISE]}),
}


@pytest.mark.parametrize("name", list(JPEGS))
def test_every_kind_of_jpeg(tmp_path: Path, name: str) -> None:
    mode, options = JPEGS[name]
    path = save(tmp_path / "a.jpg", scene(211, 160).convert(mode), quality=95, **options)
    with Image.open(path) as stored:
        assert stored.mode == mode
    np.testing.assert_array_equal(pixels(load_rgb(path)), pixels(textbook(path)))
    decoded = decode(path, least=80)
    assert (decoded.scale, decoded.image.mode) == (2, "RGB")
    spec = Preprocessing(40, 40)
    fast = network_input(path, metadata(spec), fast_decode=True)
    exact = network_input(path, metadata(spec))
    assert np.abs(fast.mean((0, 1)) - exact.mean((0, 1))).max() < 1  # each channel's own colour
    assert psnr(fast, exact) > 30


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_other_formats_are_decoded_exactly(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "a.jpg", NOISE, format=kind)  # the content counts, not the name
    decoded = decode(path, least=4)
    assert decoded.scale == 1
    np.testing.assert_array_equal(pixels(decoded.image), pixels(textbook(path)))
    given = pixels(NOISE)
    np.testing.assert_array_equal(pixels(decode(given, least=4).image), given)


def test_a_jpeg_by_another_name_is_decoded_fast(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", NOISE, format="JPEG")
    assert decode(path, least=4).scale == 8
