"""Calibration: how large the inputs of the linear layers get on real images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from numclip_export.int8.layers import Array, Linear
from numclip_export.precision.fp16_emulation import cpu_session
from numclip_runtime import UsageError
from numclip_runtime.files import atomic_text, require_writable
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.preprocess import FloatArray

BATCH = 8  # images per run; all layers' inputs of a batch are in memory at once


def channel_ranges(
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
    channel_axis = {layer.activation: 1 if layer.op == "Conv" else -1 for layer in layers}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in channel_axis)
    session = cpu_session(watched, fused=True)
    found: dict[str, Array] = {}
    for start in range(0, len(images), BATCH):
        outputs = session.run(list(channel_axis), {INPUT_NAME: images[start : start + BATCH]})
        for (name, axis), output in zip(channel_axis.items(), outputs, strict=True):
            others = tuple(i for i in range(output.ndim) if i != axis % output.ndim)
            largest = np.abs(output).max(others)
            found[name] = np.maximum(found[name], largest) if name in found else largest
    return found


def cached_ranges(
    model: onnx.ModelProto, layers: list[Linear], images: FloatArray, cache: Path | None
) -> tuple[dict[str, Array], bool]:
    """Return `channel_ranges`, from the cache where it was made of the same graph and images.

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
    ranges = channel_ranges(model, layers, images)
    if cache is not None:
        with atomic_text(cache) as file:
            json.dump({"key": key, "ranges": {k: v.tolist() for k, v in ranges.items()}}, file)
    return ranges, False


def require_cache(cache: Path) -> None:
    """Refuse a cache that cannot be written, or is a file of another kind, which it would replace.

    Raises:
        UsageError: if so.
    """
    require_writable(cache)
    if cache.exists() and cache.stat().st_size > 0 and _read(cache) is None:
        raise UsageError(
            f"{cache}: no calibration cache, or a damaged one; remove it, or give another name."
        )


def content_key(model: onnx.ModelProto, layers: Iterable[Linear], images: FloatArray) -> str:
    """Return a hash of all that the ranges depend on."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
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
