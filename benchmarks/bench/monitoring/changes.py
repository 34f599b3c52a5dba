"""Changes of the world that a monitor should notice: light, focus, camera."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

NOISE_SEED = 20240229


@dataclass(frozen=True)
class WorldChange:
    """A change of each picture."""

    key: str
    label: str
    apply: Callable[[Image.Image], Image.Image]  # of an RGB image


def blurred(share: float) -> Callable[[Image.Image], Image.Image]:
    """Return a Gaussian blur whose radius is a share of the shorter side."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def lit(factor: float) -> Callable[[Image.Image], Image.Image]:
    """Return a change of the brightness by a factor."""
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def cast(red: float, blue: float) -> Callable[[Image.Image], Image.Image]:
    """Return a colour cast: factors of red and blue."""

    def apply(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image, np.float32) * np.array([red, 1, blue], np.float32)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    return apply


def noisy(levels: float) -> Callable[[Image.Image], Image.Image]:
    """Return a sensor's noise with a standard deviation in grey levels."""

    def apply(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image, np.float32)
        rng = np.random.default_rng(NOISE_SEED + int(pixels[0, 0].sum()))
        noise = rng.normal(0, levels, pixels.shape)
        return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))

    return apply


def compressed(quality: int) -> Callable[[Image.Image], Image.Image]:
    """Return a JPEG encoding."""

    def apply(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file, formats=("JPEG",)).convert("RGB")

    return apply


def smaller(factor: int) -> Callable[[Image.Image], Image.Image]:
    """Return a camera with fewer pixels."""

    def apply(image: Image.Image) -> Image.Image:
        size = (max(8, image.width // factor), max(8, image.height // factor))
        return image.resize(size, Image.Resampling.NEAREST)

    return apply


CHANGES = (
    WorldChange("none", "no change", lambda image: image),
    WorldChange("blur", "blur, radius 1 % of the side", blurred(0.01)),
    WorldChange("blur-slight", "blur, radius 0.4 %", blurred(0.004)),
    WorldChange("dark", "darker by 25 %", lit(0.75)),
    WorldChange("dark-slight", "darker by 10 %", lit(0.9)),
    WorldChange("bright", "brighter by 25 %", lit(1.25)),
    WorldChange("cast", "colour cast, red +5 %, blue -5 %", cast(1.05, 0.95)),
    WorldChange("noise", "noise of 8 grey levels", noisy(8)),
    WorldChange("jpeg", "JPEG of quality 15", compressed(15)),
    WorldChange("camera", "camera with a third of the pixels a side", smaller(3)),
)
