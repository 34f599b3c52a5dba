"""The images on which a file is compared with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from numclip.checkpoint import Checkpoint
from numclip.data.readers import read_samples
from numclip_runtime import NumclipError
from numclip_runtime.images.folder import find_images
from numclip_runtime.metadata import InputKind, Preprocessing
from numclip_runtime.preprocess import (
    FloatArray,
    InputArray,
    PixelArray,
    load_rgb,
    normalise,
    to_pixels,
)

IMAGES = 64


@dataclass(frozen=True)
class VerifyImages:
    """64 preprocessed images, in both forms that a network may take."""

    source: Literal["validation", "given", "synthetic"]  # of those that are photos
    pixels: PixelArray  # (64, H, W, 3) uint8 RGB, photos first
    inputs: FloatArray  # (64, 3, H, W) float32, the same normalised
    photos: int  # how many; patterns from a random generator fill up the rest

    def of_kind(self, kind: InputKind) -> InputArray:
        """Return the images in the form of this kind of input, (64, ...)."""
        return self.pixels if kind == "uint8" else self.inputs


def verify_images(checkpoint: Checkpoint, verify_data: Path | None = None) -> VerifyImages:
    """Collect images to compare on.

    Args:
        checkpoint: Gives the preprocessing, and the place of its validation data.
        verify_data: Folder of images, or a file that `read_samples` reads; None: the
            checkpoint's validation data, and where that is gone, synthetic images only.

    Raises:
        UsageError: if `verify_data` holds no images.
        ImageError: if one of them cannot be read.
    """
    spec = checkpoint.preprocessing
    if verify_data is not None:
        return _filled("given", image_paths(verify_data, checkpoint), spec)
    if checkpoint.validation_csv is not None:
        try:
            paths = image_paths(Path(checkpoint.validation_csv), checkpoint, known=True)
            return _filled("validation", paths, spec)
        except (NumclipError, OSError):
            pass  # data has moved since training; the report then has "synthetic"
    return _filled("synthetic", [], spec)


def image_paths(source: Path, checkpoint: Checkpoint, *, known: bool = False) -> list[str]:
    """List images of a folder or file.

    Args:
        source: Folder of images, or a file that `read_samples` reads.
        checkpoint: Gives the task.
        known: Relative paths start from the folder that training recorded.
    """
    if source.is_dir():
        return find_images([str(source)])
    root = Path(checkpoint.validation_root) if known and checkpoint.validation_root else None
    return [str(sample.path) for sample in read_samples(source, checkpoint.task, root)]


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` of the indices below `count`, evenly spread."""
    return [round(i) for i in np.linspace(0, count - 1, min(most, count)).tolist()]


def load_spread(paths: list[str], spec: Preprocessing, most: int) -> PixelArray:
    """Load up to `most` of the images, evenly spread, as (N, H, W, 3) uint8."""
    chosen = [to_pixels(load_rgb(paths[i]), spec) for i in spread(len(paths), most)]
    return np.stack(chosen) if chosen else np.empty((0, spec.crop, spec.crop, 3), np.uint8)


def normalised(pixels: PixelArray, spec: Preprocessing) -> FloatArray:
    """Return N images (N, H, W, 3) uint8 as planes (N, 3, H, W) float32."""
    out = np.empty((len(pixels), 3, spec.crop, spec.crop), np.float32)
    for row, image in zip(out, pixels, strict=True):
        row[:] = normalise(image, spec)
    return out


def _filled(
    source: Literal["validation", "given", "synthetic"], paths: list[str], spec: Preprocessing
) -> VerifyImages:
    photos = load_spread(paths, spec, IMAGES)
    # Later patterns are noisier, so the first are used.
    patterns = islice(_synthetic(spec.crop), IMAGES - len(photos))
    pixels = np.stack([*photos, *patterns])
    return VerifyImages(source, pixels, normalised(pixels, spec), len(photos))


def _synthetic(side: int) -> Iterator[PixelArray]:
    """Yield smooth, textured and noisy images, (side, side, 3) uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)[..., None] / side
    for i in range(IMAGES):
        direction, frequency = rng.normal(size=(2, 3)), rng.uniform(0, 30, 3)
        phase = direction[0] * x + direction[1] * y
        noise = rng.normal(size=(side, side, 3)) * (i / IMAGES)
        shade = 127.5 + 90 * np.sin(frequency * phase) + 60 * noise
        yield shade.clip(0, 255).astype(np.uint8)
