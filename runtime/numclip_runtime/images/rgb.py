"""Decoded pictures of any mode as 8-bit RGB."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_STRIP = 1 << 20  # pixels that are converted at a time


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB; 16-bit grey is scaled (Pillow alone would clip it).

    Raises:
        ValueError: if it is not known which number is white.
    """
    if image.mode == "RGB":
        return image  # convert() would copy it: 20 ms at 12 MP
    tags = getattr(image, "tag_v2", None) or {}  # of a TIFF
    if image.mode == "F" or 3 in _numbers(tags, 339):
        # Pillow would use 255 as white, and so read 0 to 1 as black
        raise ValueError("float pixels, whose white value is unknown; save 8 or 16 bits")
    if 2 in _numbers(tags, 339):
        raise ValueError("signed pixels, whose white value is unknown; save 8 or 16 bits")
    if image.mode == "I" and tags:
        raise ValueError("32-bit pixels, whose white value is unknown; save 8 or 16 bits")
    if image.mode.startswith("I;16") or image.mode == "I":
        bits = next(iter(_numbers(tags, 258)), 16)
        # Mode "I" is what older Pillow opens 16-bit PNGs as.
        image = _grey_of_16(
            image,
            (1 << bits) - 1,
            inverted=tags.get(262) == 0 or getattr(image, "white_is_zero", False),
        )
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # direct conversion warns and loses palette transparency
    return image.convert("RGB")


def _numbers(tags: Any, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _grey_of_16(image: Image.Image, white: int, *, inverted: bool) -> Image.Image:
    """Return grey with up to 16 bits as 8 bits; strip by strip, since numpy's copies add up."""
    levels = _levels(white, inverted=inverted)
    grey = Image.new("L", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        grey.paste(Image.fromarray(levels[np.clip(strip, 0, 65535)]), (0, top))
    return grey


@cache
def _levels(white: int, *, inverted: bool) -> npt.NDArray[np.uint8]:
    """Return the 8-bit level of each 16-bit number, (65536,)."""
    levels: npt.NDArray[np.uint8]
    levels = np.rint(np.arange(65536) * (255 / white)).clip(0, 255).astype(np.uint8)
    return 255 - levels if inverted else levels
