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
from numclip_export.images import (
    given_images,
    load_spread,
    normalised,
    spread,
    validation_images,
    validation_samples,
)
from numclip_export.int8.layers import Linear
from numclip_export.options import ExportOptions
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


def int8_data(checkpoint: Checkpoint, options: ExportOptions) -> Int8Data:
    """Collect the images.

    They are calibrated with `calib_data`, a folder of images or a file that `read_samples` reads,
    or with the checkpoint's validation data. MAEs are compared on `verify_data` where it is a file
    with labels; else on the checkpoint's validation data, where they are still there.

    Raises:
        UsageError: if there are no images to calibrate with, or the cache cannot be used.
        ImageError: if one of them cannot be read.
    """
    spec, cache = checkpoint.preprocessing, options.calib_cache
    if cache is not None:
        require_cache(cache)
    if options.calib_data is not None:
        images, source = given_images(options.calib_data, checkpoint, options.table), "given"
    else:
        try:
            images, source = validation_images(checkpoint), "validation"
        except (NumclipError, OSError) as error:
            raise UsageError(
                "INT8 is calibrated on images, and the checkpoint's validation data cannot be "
                f"read, {str(error).rstrip('.')}; give some with --data or --calib-data."
            ) from None
    labelled, labels = _labelled(checkpoint, options)
    inputs = normalised(load_spread(images, spec, CALIBRATION), spec)
    return Int8Data(inputs, source, cache, labelled, labels)


def _labelled(checkpoint: Checkpoint, options: ExportOptions) -> tuple[PixelArray, FloatArray]:
    spec, given = checkpoint.preprocessing, options.verify_data
    given = None if given is None or given.is_dir() else given
    try:
        if given is not None:
            samples = read_samples(given, checkpoint.task, table=options.table, notes=[])
        else:
            samples = validation_samples(checkpoint)
        samples = [samples[i] for i in spread(len(samples), LABELLED)]
        images = load_spread([sample.image for sample in samples], spec, LABELLED)
    except (NumclipError, OSError):
        if given is not None:
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
