"""The images on which a file is compared with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from numclip.checkpoint import Checkpoint
from numclip.data.columns import PLAIN_TABLE, TableOptions
from numclip.data.readers import read_samples
from numclip.data.samples import Sample
from numclip_runtime import NumclipError, UsageError
from numclip_runtime.console import say
from numclip_runtime.images.folder import find_images
from numclip_runtime.metadata import InputKind, Preprocessing
from numclip_runtime.preprocess import (
    FloatArray,
    ImageLike,
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


def verify_images(
    checkpoint: Checkpoint,
    verify_data: Path | None = None,
    table: TableOptions = PLAIN_TABLE,
) -> VerifyImages:
    """Collect images to compare on.

    Args:
        checkpoint: Gives the preprocessing, and the place of its validation data.
        verify_data: Folder of images, or a file that `read_samples` reads; None: the
            checkpoint's validation data, and where that is gone, synthetic images only.
        table: How `verify_data` is read, see `read_samples`.

    Raises:
        UsageError: if `verify_data` holds no images.
        ImageError: if one of them cannot be read.
    """
    spec = checkpoint.preprocessing
    if verify_data is not None:
        return _filled("given", given_images(verify_data, checkpoint, table), spec)
    if checkpoint.validation_csv is not None:
        try:
            return _filled("validation", validation_images(checkpoint), spec)
        except (NumclipError, OSError) as error:  # moved since training
            say(
                "Warning: the checkpoint's validation data cannot be read, so the files are "
                f"compared on synthetic images; give others with --data. {error}"
            )
    return _filled("synthetic", [], spec)


def given_images(source: Path, checkpoint: Checkpoint, table: TableOptions) -> list[ImageLike]:
    """List the images of a folder of images, or of a file that `read_samples` reads.

    Args:
        source: Folder or file.
        checkpoint: Gives the task.
        table: How the file is read.
    """
    if source.is_dir():
        return [*find_images([str(source)])]
    return [sample.image for sample in read_samples(source, checkpoint.task, table=table)]


def validation_images(checkpoint: Checkpoint) -> list[ImageLike]:
    """List the images of the checkpoint's validation data.

    Raises:
        UsageError: if it names none, or they cannot be read.
    """
    if checkpoint.validation_csv is None:
        raise UsageError("the checkpoint names none")
    source = Path(checkpoint.validation_csv)
    if source.is_dir():
        return [*find_images([str(source)])]
    return [sample.image for sample in validation_samples(checkpoint)]


def validation_samples(checkpoint: Checkpoint) -> list[Sample]:
    """Read the checkpoint's validation data, as training did; empty if it names none."""
    if checkpoint.validation_csv is None:
        return []
    root = checkpoint.validation_root
    return read_samples(
        Path(checkpoint.validation_csv),
        checkpoint.task,
        None if root is None else Path(root),
        table=checkpoint.validation_table,
        notes=[],  # were said by training
    )


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` of the indices below `count`, evenly spread."""
    return [round(i) for i in np.linspace(0, count - 1, min(most, count)).tolist()]


def load_spread(images: Sequence[ImageLike], spec: Preprocessing, most: int) -> PixelArray:
    """Load up to `most` of the images, evenly spread, as (N, H, W, 3) uint8."""
    chosen = [to_pixels(load_rgb(images[i]), spec) for i in spread(len(images), most)]
    return np.stack(chosen) if chosen else np.empty((0, spec.crop, spec.crop, 3), np.uint8)


def normalised(pixels: PixelArray, spec: Preprocessing) -> FloatArray:
    """Return N images (N, H, W, 3) uint8 as planes (N, 3, H, W) float32."""
    out = np.empty((len(pixels), 3, spec.crop, spec.crop), np.float32)
    for row, image in zip(out, pixels, strict=True):
        row[:] = normalise(image, spec)
    return out


def _filled(
    source: Literal["validation", "given", "synthetic"],
    images: Sequence[ImageLike],
    spec: Preprocessing,
) -> VerifyImages:
    photos = load_spread(images, spec, IMAGES)
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
