"""The images that INT8 is calibrated with and judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numclip.checkpoint import Checkpoint
from numclip.data.sources import read_samples
from numclip_export.images import image_paths
from numclip_export.int8.ranges import require_cache
from numclip_runtime import NumclipError, Preprocessing, UsageError
from numclip_runtime.preprocess import FloatArray, PixelArray, load_rgb, normalise, to_pixels

CALIBRATION = 64  # images: the ranges of a layer hardly grow after 50
LABELLED = 256  # images that MAEs are compared on


@dataclass(frozen=True)
class Int8Data:
    """Images to calibrate with and to judge by, preprocessed."""

    calibration: FloatArray  # (N, 3, H, W) float32
    source: str  # "given" or "validation"
    cache: Path | None  # of the calibration; None: measured each time
    labelled: PixelArray  # (M, H, W, 3) uint8 RGB; M = 0: no labels are known
    labels: FloatArray  # (M,) label units


def int8_data(
    checkpoint: Checkpoint, calib_data: Path | None, cache: Path | None, verify_data: Path | None
) -> Int8Data:
    """Collect the images.

    Args:
        checkpoint: Gives the preprocessing, and the place of its validation data.
        calib_data: Folder of images, or a file that `read_samples` reads; None takes the
            checkpoint's validation data.
        cache: File of the calibration's ranges.
        verify_data: Where it is a file with labels, MAEs are compared on it; else on the
            checkpoint's validation data, where they are still there.

    Raises:
        UsageError: if there are no images to calibrate with, or the cache cannot be used.
        ImageError: if one of them cannot be read.
    """
    spec = checkpoint.preprocessing
    if cache is not None:
        require_cache(cache)
    known = Path(checkpoint.validation_csv) if checkpoint.validation_csv is not None else None
    if calib_data is not None:
        paths, source = image_paths(calib_data, checkpoint), "given"
    else:
        try:
            if known is None:
                raise UsageError("the checkpoint names none")
            paths, source = image_paths(known, checkpoint, known=True), "validation"
        except (NumclipError, OSError) as error:
            raise UsageError(
                "INT8 is calibrated on images, and the checkpoint's validation data cannot be "
                f"read ({str(error).rstrip('.')}); give some with --calib-data."
            ) from None
    labelled, labels = _labelled(checkpoint, verify_data, known)
    return Int8Data(
        normalised(_load(paths, spec, CALIBRATION), spec), source, cache, labelled, labels
    )


def normalised(pixels: PixelArray, spec: Preprocessing) -> FloatArray:
    """Return N images (N, H, W, 3) uint8 as planes (N, 3, H, W) float32."""
    out = np.empty((len(pixels), 3, spec.crop, spec.crop), np.float32)
    for row, image in zip(out, pixels, strict=True):
        row[:] = normalise(image, spec)
    return out


def _labelled(
    checkpoint: Checkpoint, verify_data: Path | None, known: Path | None
) -> tuple[PixelArray, FloatArray]:
    spec, root = checkpoint.preprocessing, None
    file = verify_data if verify_data is not None and verify_data.is_file() else known
    if file == known and checkpoint.validation_root is not None:
        root = Path(checkpoint.validation_root)
    try:
        samples = read_samples(file, checkpoint.task, root) if file is not None else []
        samples = [samples[i] for i in _spread(len(samples), LABELLED)]
        images = _load([str(sample.path) for sample in samples], spec, LABELLED)
    except (NumclipError, OSError):
        if file == verify_data:
            raise
        samples, images = [], _load([], spec, 0)  # data has moved: there are no labels
    return images, np.array([sample.label for sample in samples], np.float32)


def _load(paths: list[str], spec: Preprocessing, most: int) -> PixelArray:
    chosen = [to_pixels(load_rgb(paths[i]), spec) for i in _spread(len(paths), most)]
    return np.stack(chosen) if chosen else np.empty((0, spec.crop, spec.crop, 3), np.uint8)


def _spread(count: int, most: int) -> list[int]:
    """Return up to `most` of the indices below `count`, evenly spread."""
    return [round(i) for i in np.linspace(0, count - 1, min(most, count)).tolist()]
