"""Decode an image file, a Pillow image or an array to upright 8-bit RGB.

Exactly, as training reads its images, or fast: JPEGs much larger than the network's input are
decoded at 1/2, 1/4 or 1/8 of their size, which skips most of the work per pixel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from numclip_runtime.errors import ImageError, first_line

# A path, a Pillow image, or an array: (H, W, 3) uint8 RGB or (H, W) grey
ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom; pixels

_JPEG = {"JPEG", "MPO"}  # MPO: a JPEG followed by others, as many phones write
_UPRIGHT = 1
_TURNED = range(2, 9)  # values of EXIF's orientation that move pixels


@dataclass(frozen=True)
class Decoded:
    """A decoded image; `image` may be the caller's own, so it must not be changed."""

    image: Image.Image  # RGB, upright
    # The part that shows the photo: all, or a fraction of a pixel less if a size was not divisible.
    # Including that fraction would shift the image: 38 dB PSNR instead of 47 at worst
    box: Box
    scale: int  # divisor of each side: 1 (decoded exactly), 2, 4 or 8


def load_rgb(source: ImageLike) -> Image.Image:
    """Open and decode an image as 8-bit RGB, turned upright by its EXIF orientation.

    Args:
        source: Path, Pillow image (any mode), or uint8 array (H, W, 3) RGB or (H, W) grey.

    Returns:
        An image of its own, never the one that was given.

    Raises:
        ImageError: if the file is missing, not an image, truncated, or far too large.
    """
    image = decode(source).image
    return image.copy() if image is source else image


def decode(source: ImageLike, *, least: int | None = None) -> Decoded:
    """Open and decode an image as upright 8-bit RGB, without unnecessary copies.

    Args:
        source: As in `load_rgb`.
        least: Pixels that both sides should keep; JPEG files may be decoded at a half, a quarter or
            an eighth of their size. None: exactly.

    Raises:
        ImageError: as `load_rgb`.
    """
    if isinstance(source, np.ndarray):
        return _whole(_from_array(source))
    if isinstance(source, Image.Image):
        return _whole(_from_pillow(source))
    path = os.fspath(source)
    try:
        with Image.open(path) as image:
            size = image.size
            scale = 1 if least is None else shrink(image, least)
            if scale == 1:
                return _whole(_to_rgb(_upright(image)))
            return _scaled(image, size, scale)
    except Exception as error:
        raise image_error(path, error) from None


def image_error(path: str | os.PathLike[str], error: Exception) -> ImageError:
    """Return the error for a file that Pillow could not open or decode.

    Args:
        path: Of the file.
        error: Pillow's plugins raise many types for a broken file, such as RuntimeError for AVIF
            and struct.error for EXIF.
    """
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
    elif isinstance(error, UnidentifiedImageError):
        empty = Path(path).stat().st_size == 0
        reason = "the file is empty" if empty else "not an image that Pillow can read"
    elif isinstance(error, Image.DecompressionBombError):
        reason = f"refused, {error}".rstrip(".")
    else:
        reason = f"cannot be decoded ({getattr(error, 'strerror', None) or first_line(error)})"
    return ImageError(f"{path}: {reason}.")


def shrink(image: Image.Image, least: int) -> int:
    """Make Pillow decode an opened JPEG at the smallest sufficient size.

    Args:
        image: As `Image.open` returns it; its `size` changes.
        least: Pixels that both sides should keep, so turning the image makes no difference.

    Returns:
        Divisor of both sides, which are rounded up: 1 (decoded exactly), 2, 4 or 8.
    """
    width = image.width
    drafted = image.draft(None, (least, least)) if image.format in _JPEG else None
    return 1 if drafted is None else round(width / drafted[1][2])


def _scaled(image: Image.Image, size: tuple[int, int], scale: int) -> Decoded:
    orientation = _orientation(image)
    upright = _to_rgb(_upright(image))
    width, height = (side / scale for side in (size if orientation < 5 else size[::-1]))
    # The superfluous fraction is at the file's right and lower edges, wherever they were turned to
    left = upright.width - width if orientation in (2, 3, 6, 7) else 0.0
    top = upright.height - height if orientation in (3, 4, 7, 8) else 0.0
    return Decoded(upright, (left, top, left + width, top + height), scale)


def _whole(image: Image.Image) -> Decoded:
    return Decoded(image, (0, 0, *image.size), 1)


def _from_pillow(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"image: empty, size {image.size}.")
    try:
        return _to_rgb(_upright(image))
    except Exception as error:  # Pillow decodes only now; see `image_error`
        raise ImageError(f"image: cannot be decoded ({first_line(error)}).") from None


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise ImageError(
            f"array: expected uint8 of shape (H, W, 3) RGB or (H, W) grey, "
            f"got {array.dtype} of shape {array.shape}."
        )
    if array.size == 0:
        raise ImageError(f"array: empty, shape {array.shape}.")
    return _to_rgb(Image.fromarray(array))


def _upright(image: Image.Image) -> Image.Image:
    """Decode, and turn if needed; `exif_transpose` copies even upright images: 20 ms at 12 MP."""
    return image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int:
    image.load()  # some formats keep EXIF behind the pixels
    value = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return int(value) if value in _TURNED else _UPRIGHT


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB; 16-bit grey is scaled (Pillow alone would clip it)."""
    if image.mode == "RGB":
        return image  # convert() would copy it: 20 ms at 12 MP
    if image.mode.startswith("I;16") or image.mode == "I":
        # 65535 -> 255. Mode "I" is what older Pillow opens 16-bit PNGs as.
        grey = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    elif image.mode == "F":  # Pillow would use 255 as white, and so read 0 to 1 as black
        raise ValueError("float pixels, whose white value is unknown; save 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # direct conversion warns and loses palette transparency
    return image.convert("RGB")
