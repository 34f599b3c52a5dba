"""Turn a decoded image into the network's input, with Pillow and numpy only.

Equal, to float rounding, to training's evaluation transform (torchvision's Resize, CenterCrop,
ToTensor, Normalize on the same RGB image): a test compares the arrays.
"""

from __future__ import annotations

import math
import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from numclip_runtime.errors import ImageError
from numclip_runtime.images.decode import Box, Decoded, decode
from numclip_runtime.images.decode import ImageLike as ImageLike  # for code that works step by step
from numclip_runtime.images.decode import load_rgb as load_rgb
from numclip_runtime.metadata import ModelMetadata, Preprocessing

FloatArray: TypeAlias = npt.NDArray[np.float32]
PixelArray: TypeAlias = npt.NDArray[np.uint8]
InputArray: TypeAlias = npt.NDArray[Any]  # FloatArray or PixelArray, see `network_input`

MAX_RESIZED_PIXELS = 50_000_000  # 150 MB; reached by images 1,000 times longer than wide
# Size of a scaled JPEG before the resize, relative to the size after it. PSNR in dB to the exact
# pixels of real photos, median (worst): 1x 44 (33), 2x 52 (42), 3x 55 (52); at 3x, a photo of 2 MP
# would have to be decoded in full.
SPARE = 2

LOOKS = 4  # places along each side of a cell, 9 ms for 9 cells
_SHARES = tuple((look + 0.5) / LOOKS for look in range(LOOKS))
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def network_input(
    source: ImageLike, metadata: ModelMetadata, *, fast_decode: bool = False
) -> InputArray:
    """Turn an image into the input of a model.

    Args:
        source: Path, bytes of a file, binary file, Pillow image (any mode), or uint8 array
            (H, W, 3) RGB or (H, W) grey.
        metadata: Of the model.
        fast_decode: Decode JPEG files at the smallest size with both sides at least `least_side`.

    Returns:
        (H, W, 3) uint8 if the model normalises by itself, else (3, H, W) float32.

    Raises:
        ImageError: if the image cannot be read.
    """
    spec = metadata.preprocessing
    try:
        pixels = pixels_of(decode(source, least=least_side(spec) if fast_decode else None), spec)
        return pixels if metadata.input == "uint8" else normalise(pixels, spec)
    except MemoryError:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "image"
        raise ImageError(f"{name}: not enough memory to resize it.") from None


def pixels_of(decoded: Decoded, spec: Preprocessing) -> PixelArray:
    """Turn a result of `decode` into the network's pixels, (H, W, 3) uint8."""
    box = decoded.box if decoded.scale > 1 else None
    return np.asarray(resize_and_crop(decoded.image, spec, box))


def least_side(spec: Preprocessing) -> int | None:
    """Return the number of pixels that both sides of a photo keep at least in fast decoding.

    None: all of them, since fragments are of the photo as it is.
    """
    return None if spec.resize_mode == "fragments" else SPARE * spec.resize


def mosaic(
    image: Image.Image, spec: Preprocessing, places: npt.NDArray[np.float64] | None = None
) -> Image.Image:
    """Put pieces of an RGB image side by side, at full resolution: (spec.crop, spec.crop).

    The piece in row i and column j is from cell (i, j) of a grid over the image: of LOOKS x LOOKS
    evenly spaced places the one with most detail, because skies and backgrounds show neither blur
    nor compression. Where cells are smaller than pieces, these overlap; an image smaller than a
    piece is continued by its mirror image.

    Args:
        image: Of any size.
        spec: Of the network.
        places: (fragments, fragments, 2) the place of each piece in its cell, down and across, from
            0 (the first) to 1 (left out); None: the one with most detail.
    """
    side, count = spec.crop // spec.fragments, spec.fragments
    if min(image.size) < side:
        down, across = (max(side - length, 0) for length in (image.height, image.width))
        padded = np.pad(np.asarray(image), ((0, down), (0, across), (0, 0)), "symmetric")
        image = Image.fromarray(padded)
    out = Image.new("RGB", (spec.crop, spec.crop))
    for i, j in np.ndindex(count, count):
        shares = (_SHARES, _SHARES) if places is None else places[i, j, :, None]
        tops, lefts = (
            dict.fromkeys(_start(cell, length, count, side, share) for share in along)
            for cell, length, along in zip((i, j), (image.height, image.width), shares, strict=True)
        )
        pieces = [
            image.crop((left, top, left + side, top + side)) for top in tops for left in lefts
        ]
        best = pieces[0] if len(pieces) == 1 else max(pieces, key=_detail)  # the first of equals
        out.paste(best, (j * side, i * side))
    return out


def _start(cell: int, length: int, count: int, side: int, share: float) -> int:
    """Return the first pixel, along one axis, of a piece in a cell."""
    start = math.floor((cell + share) * length / count - share * (side - 1))
    return min(max(start, 0), length - side)


def _detail(piece: Image.Image) -> int:
    """Return the sum of squared differences between neighbouring pixels of the green channel."""
    green = np.asarray(piece.getchannel("G"), np.int32)
    steps = (np.diff(green, axis=axis) for axis in (0, 1))
    return sum(int(np.vdot(step, step)) for step in steps)


def resize_and_crop(image: Image.Image, spec: Preprocessing, box: Box | None = None) -> Image.Image:
    """Resize and centre-crop an RGB image to (spec.crop, spec.crop), or see `mosaic`.

    Args:
        image: Decoded image; not changed, but returned if it has the right size already.
        spec: Of the network.
        box: Part to use, as fast decoding found it. None: all, exactly as in training.

    Raises:
        ImageError: if the image is so long and narrow that the resized one would not fit in memory.
    """
    if spec.resize_mode == "fragments":
        return mosaic(image, spec)
    w, h = image.size if box is None else (box[2] - box[0], box[3] - box[1])
    if spec.resize_mode == "squash":
        width = height = spec.resize
    else:
        short, long = min(w, h), max(w, h)
        scaled = int(spec.resize * long / short)  # truncates, as torchvision's Resize does
        width, height = (spec.resize, scaled) if w <= h else (scaled, spec.resize)
        if width * height > MAX_RESIZED_PIXELS:
            raise ImageError(
                f"image of {w:g} x {h:g} pixels: too long and narrow, it would become {width} x "
                f"{height} before the crop."
            )
    if box is not None or (width, height) != image.size:
        image = image.resize((width, height), _FILTERS[spec.interpolation], box)
    if image.size == (spec.crop, spec.crop):
        return image
    # Resizing only the part inside the crop would be 9 % faster, but Pillow chooses by the sizes
    # which side it resizes first, and the order changes pixels by up to 19 levels.
    # round() is half-to-even, as in torchvision's CenterCrop
    left, top = round((width - spec.crop) / 2.0), round((height - spec.crop) / 2.0)
    return image.crop((left, top, left + spec.crop, top + spec.crop))


def to_pixels(image: Image.Image, spec: Preprocessing) -> PixelArray:
    """Turn a decoded RGB image into the network's pixels, (H, W, 3) uint8."""
    return np.asarray(resize_and_crop(image, spec))


def to_input(image: Image.Image, spec: Preprocessing) -> FloatArray:
    """Turn a decoded RGB image into one network input, (3, H, W) float32: see `normalise`."""
    return normalise(to_pixels(image, spec), spec)


def normalise(pixels: PixelArray, spec: Preprocessing) -> FloatArray:
    """Return RGB planes (pixel / 255 - mean) / std, (3, H, W) float32, of (H, W, 3) uint8."""
    out = np.empty((3, *pixels.shape[:2]), np.float32)
    # Plane by plane, one multiply and one add: 4x faster than (x / 255 - mean) / std at once
    for channel, (factor, shift) in enumerate(zip(*normalisation(spec), strict=True)):
        np.multiply(pixels[..., channel], factor, out=out[channel])
        out[channel] += shift
    return out


def normalisation(spec: Preprocessing) -> tuple[FloatArray, FloatArray]:
    """Return factors and shifts, (3,) each: (pixel / 255 - mean) / std = pixel * factor + shift."""
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def preprocess(source: ImageLike, spec: Preprocessing) -> FloatArray:
    """Decode and preprocess one image, exactly: `decode`, then `to_input`; (3, H, W) float32."""
    return to_input(decode(source).image, spec)
