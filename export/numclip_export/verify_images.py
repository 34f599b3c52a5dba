"""The images on which an artefact is compared with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from numclip.checkpoint import Checkpoint
from numclip.sources import read_samples
from numclip_runtime import NumclipError
from numclip_runtime.files import find_images
from numclip_runtime.preprocess import FloatArray, preprocess

IMAGES = 64


@dataclass(frozen=True)
class VerifyImages:
    """64 preprocessed images."""

    source: Literal["validation", "given", "synthetic"]  # of those that are photos
    inputs: FloatArray  # (64, 3, H, W) float32, photos first
    photos: int  # how many; patterns from a random generator fill up the rest


def verify_images(checkpoint: Checkpoint, verify_data: Path | None = None) -> VerifyImages:
    """Collect images to compare on.

    Args:
        checkpoint: Gives the preprocessing, and the place of its validation data.
        verify_data: Folder of images, or a file that `read_samples` reads; None takes the
            checkpoint's validation data, and where that is gone, synthetic images only.

    Raises:
        UsageError: if `verify_data` holds no images.
        ImageError: if one of them cannot be read.
    """
    if verify_data is not None:
        return _filled("given", _load(_image_paths(verify_data, checkpoint), checkpoint))
    if checkpoint.validation_csv is not None:
        try:
            paths = _image_paths(Path(checkpoint.validation_csv), checkpoint, known=True)
            return _filled("validation", _load(paths, checkpoint))
        except (NumclipError, OSError):
            pass  # data has moved since training; the report says "synthetic"
    side = checkpoint.preprocessing.crop
    return _filled("synthetic", np.empty((0, 3, side, side), np.float32))


def _image_paths(source: Path, checkpoint: Checkpoint, *, known: bool = False) -> list[str]:
    """List images of a source; `known`: its relative paths start where training said."""
    if source.is_dir():
        return find_images([str(source)])
    root = Path(checkpoint.validation_root) if known and checkpoint.validation_root else None
    return [str(sample.path) for sample in read_samples(source, checkpoint.task, root)]


def _load(paths: list[str], checkpoint: Checkpoint) -> FloatArray:
    chosen = np.linspace(0, len(paths) - 1, min(IMAGES, len(paths))).round().astype(int)
    return np.stack([preprocess(paths[i], checkpoint.preprocessing) for i in chosen])


def _filled(
    source: Literal["validation", "given", "synthetic"], photos: FloatArray
) -> VerifyImages:
    # The more patterns there are, the noisier the last: take those from the start.
    patterns = list(islice(_synthetic(photos.shape[-1]), IMAGES - len(photos)))
    inputs = np.concatenate([photos, np.stack(patterns)]) if patterns else photos
    return VerifyImages(source, inputs, len(photos))


def _synthetic(side: int) -> Iterator[FloatArray]:
    """Yield smooth, textured and noisy images in normalised range."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    for i in range(IMAGES):
        direction, frequency = rng.normal(size=(3, 2)), rng.uniform(0, 30, (3, 1, 1))
        phase = direction[:, :1, None] * x + direction[:, 1:, None] * y
        noise = rng.normal(size=(3, side, side)) * (i / IMAGES)
        yield (np.sin(frequency * phase) * 1.5 + noise).astype(np.float32)
