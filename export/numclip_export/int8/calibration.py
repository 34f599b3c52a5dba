"""Calibration of INT8: its images, and the ranges that the layers' inputs reach on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from numclip.checkpoint import Checkpoint
from numclip.data.readers import read_samples
from numclip_export.graph.edit import Array, copy_of
from numclip_export.graph.run import largest_magnitudes
from numclip_export.images import image_paths, load_spread, normalised, spread
from numclip_export.int8.layers import Linear
from numclip_runtime import NumclipError, UsageError
from numclip_runtime.files import atomic_text, require_writable
from numclip_runtime.preprocess import FloatArray, PixelArray

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
        calib_data: Folder of images, or a file that `read_samples` reads; None: the
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
    images = normalised(load_spread(paths, spec, CALIBRATION), spec)
    return Int8Data(images, source, cache, labelled, labels)


def _labelled(
    checkpoint: Checkpoint, verify_data: Path | None, known: Path | None
) -> tuple[PixelArray, FloatArray]:
    spec, root = checkpoint.preprocessing, None
    file = verify_data if verify_data is not None and verify_data.is_file() else known
    if file == known and checkpoint.validation_root is not None:
        root = Path(checkpoint.validation_root)
    try:
        samples = read_samples(file, checkpoint.task, root) if file is not None else []
        samples = [samples[i] for i in spread(len(samples), LABELLED)]
        images = load_spread([str(sample.path) for sample in samples], spec, LABELLED)
    except (NumclipError, OSError):
        if file == verify_data:
            raise
        samples, images = [], load_spread([], spec, 0)  # data has moved: there are no labels
    return images, np.array([sample.label for sample in samples], np.float32)


def layer_ranges(
    model: onnx.ModelProto, layers: Iterable[Linear], images: FloatArray
) -> dict[str, Array]:
    """Run images through a float32 graph and return each channel's largest magnitude.

    Args:
        model: float32 graph.
        layers: Layers whose inputs are watched.
        images: (N, 3, H, W) float32, preprocessed.

    Returns:
        (C,) float32 by tensor: the last axis is the channel, or the second of 4 (convolutions).
    """
    axes = {layer.activation: 1 if layer.op == "Conv" else -1 for layer in layers}
    return largest_magnitudes(model, axes, images, fused=True)


def cached_ranges(
    model: onnx.ModelProto, layers: list[Linear], images: FloatArray, cache: Path | None
) -> tuple[dict[str, Array], bool]:
    """Return `layer_ranges`, from the cache where it was made of the same graph and images.

    Args:
        model: float32 graph.
        layers: Layers whose inputs are watched.
        images: (N, 3, H, W) float32, preprocessed.
        cache: JSON file, read and written; None: no cache.

    Returns:
        The ranges, and whether they came from the cache.
    """
    key = content_key(model, layers, images)
    if cache is not None and (stored := _read(cache)) is not None and stored.get("key") == key:
        return {name: np.array(row, np.float32) for name, row in stored["ranges"].items()}, True
    ranges = layer_ranges(model, layers, images)
    if cache is not None:
        with atomic_text(cache) as file:
            json.dump({"key": key, "ranges": {k: v.tolist() for k, v in ranges.items()}}, file)
    return ranges, False


def require_cache(cache: Path) -> None:
    """Refuse a cache that cannot be written, or a file of another kind, which it would replace.

    Raises:
        UsageError: if so.
    """
    require_writable(cache)
    if cache.exists() and cache.stat().st_size > 0 and _read(cache) is None:
        raise UsageError(
            f"{cache}: not a calibration cache, or a damaged one; remove it, or give another name."
        )


def content_key(model: onnx.ModelProto, layers: Iterable[Linear], images: FloatArray) -> str:
    """Return a hash of everything that the ranges depend on."""
    plain = copy_of(model)
    del plain.metadata_props[:]  # dates and parity change no number
    digest = sha256(plain.SerializeToString(deterministic=True))
    digest.update(json.dumps([layer.activation for layer in layers]).encode())
    digest.update(str(images.shape).encode() + np.ascontiguousarray(images).tobytes())
    return digest.hexdigest()


def _read(cache: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and set(found) == {"key", "ranges"} else None
