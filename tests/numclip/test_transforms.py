"""Training's evaluation transform (torchvision) equals the runtime's preprocessing (numpy)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip.data.dataset import evaluation_transform
from numclip.model.preprocessing import STATISTICS
from numclip_runtime import Preprocessing
from numclip_runtime.metadata import Interpolation, ResizeMode
from numclip_runtime.preprocess import load_rgb, preprocess

Maker = Callable[[Image.Image], Image.Image]


def photo(width: int, height: int) -> Image.Image:
    """Return an image of smooth colours and noise."""
    rng = np.random.default_rng(width * height)
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / width, y * 255 / height, rng.uniform(0, 255, x.shape)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def see_through_palette(image: Image.Image) -> Image.Image:
    image = image.quantize(16)
    image.info["transparency"] = 3
    return image


def sixteen_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return Image.frombytes("I;16", image.size, grey.tobytes())


def turned(image: Image.Image) -> Image.Image:
    image.getexif()[0x0112] = 6  # orientation: turn clockwise
    return image


KINDS: dict[str, tuple[str, Maker]] = {  # file name, how it is made of an RGB image
    "rgb": ("a.png", lambda image: image),
    "jpeg": ("a.jpg", lambda image: image),
    "grey": ("a.png", lambda image: image.convert("L")),
    "rgba": ("a.png", lambda image: image.convert("RGBA")),
    "palette": ("a.png", lambda image: image.quantize(16)),
    "see-through palette": ("a.png", see_through_palette),
    "cmyk": ("a.jpg", lambda image: image.convert("CMYK")),
    "16 bit": ("a.png", sixteen_bits),
    "turned": ("a.jpg", turned),
}


def check(path: Path, spec: Preprocessing) -> None:
    expected = evaluation_transform(spec)(load_rgb(path)).numpy()
    got = preprocess(path, spec)
    assert got.shape == expected.shape == (3, spec.crop, spec.crop)
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize(
    "size", [(1, 1), (7, 5), (31, 97), (97, 31), (33, 33), (36, 36), (40, 36), (36, 41), (200, 151)]
)
def test_sizes(
    tmp_path: Path, size: tuple[int, int], resize_mode: ResizeMode, interpolation: Interpolation
) -> None:
    photo(*size).save(tmp_path / "a.png")
    for crop, resize in ((32, 36), (33, 36), (36, 36)):
        check(tmp_path / "a.png", Preprocessing(crop, resize, resize_mode, interpolation))


@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_kinds_of_image(tmp_path: Path, kind: str, resize_mode: ResizeMode) -> None:
    name, make = KINDS[kind]
    image = make(photo(61, 45))
    image.save(tmp_path / name, exif=image.getexif())
    mean, std = STATISTICS["clip"]
    check(tmp_path / name, Preprocessing(32, 37, resize_mode, "bicubic", mean, std))
    assert load_rgb(tmp_path / name).size == ((45, 61) if kind == "turned" else (61, 45))
