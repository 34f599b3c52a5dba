"""Run a graph in memory on the CPU, and measure how large its tensors become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import onnx

from numclip_export.graph.edit import Array, Constants, with_outputs
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.preprocess import InputArray

BATCH = 8  # images per run: tensors of a whole batch are in memory at once


def cpu_session(model: onnx.ModelProto, *, fused: bool = False) -> Any:
    """Open an onnxruntime session on the CPU.

    Args:
        model: Graph in memory.
        fused: Allow fusions across operators: faster, but roundings between them may vanish.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they are raised as well
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_batches(session: Any, names: list[str], images: InputArray) -> list[list[Any]]:
    """Return the named tensors for each batch of (N, ...) images."""
    return [
        session.run(names, {INPUT_NAME: images[start : start + BATCH]})
        for start in range(0, len(images), BATCH)
    ]


def largest_magnitudes(
    model: onnx.ModelProto,
    channel_axes: Mapping[str, int | None],
    images: InputArray,
    *,
    fused: bool = False,
) -> dict[str, Array]:
    """Measure the largest magnitudes of tensors in a float32 graph, over all images.

    The graph itself reduces them, because whole tensors of RN50x64 are gigabytes.

    Args:
        model: float32 graph.
        channel_axes: By tensor: 1 for (B, C, H, W), -1 for (..., C), None for one number.
        images: (N, ...) in the form of the graph's input.
        fused: See `cpu_session`.

    Returns:
        (C,) float32 by tensor; () where the axis is None.
    """
    peaks = {name: f"{name}/peak" for name in channel_axes}
    watched = with_outputs(model, peaks.values())
    constants, make = Constants(watched), onnx.helper.make_node
    axes = {
        1: constants.put("axes_of_planes", np.array([0, 2, 3])),
        -1: constants.put("axis_of_rows", np.array([0])),
    }
    for name, axis in channel_axes.items():
        tensor = f"{name}/abs"
        watched.graph.node.append(make("Abs", [name], [tensor]))
        if axis == -1:
            watched.graph.node.append(make("Flatten", [tensor], [f"{name}/rows"], axis=-1))
            tensor = f"{name}/rows"
        inputs = [tensor] if axis is None else [tensor, axes[axis]]
        watched.graph.node.append(make("ReduceMax", inputs, [peaks[name]], keepdims=0))
    runs = run_batches(cpu_session(watched, fused=fused), list(peaks.values()), images)
    largest = [np.max(column, axis=0) for column in zip(*runs, strict=True)]
    return dict(zip(peaks, largest, strict=True))


def extremes(
    model: onnx.ModelProto, names: Iterable[str], images: InputArray
) -> dict[str, tuple[float, float]]:
    """Measure the smallest and largest number of tensors in a float32 graph, over all images.

    Args:
        model: float32 graph.
        names: Tensors.
        images: (N, ...) in the form of the graph's input.
    """
    ends = {name: (f"{name}/smallest", f"{name}/largest") for name in names}
    watched = with_outputs(model, chain.from_iterable(ends.values()))
    for name, results in ends.items():
        for kind, result in zip(("ReduceMin", "ReduceMax"), results, strict=True):
            watched.graph.node.append(onnx.helper.make_node(kind, [name], [result], keepdims=0))
    session = cpu_session(watched, fused=True)
    runs = np.array(run_batches(session, list(chain.from_iterable(ends.values())), images))
    found = zip(runs[:, ::2].min(0).tolist(), runs[:, 1::2].max(0).tolist(), strict=True)
    return dict(zip(ends, found, strict=True))
