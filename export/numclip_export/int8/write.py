"""Write the INT8 file of a model, or refuse it with the figures that speak against it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx

from numclip_export.artefact import Artefact, difference, finish
from numclip_export.graph_run import GraphRun
from numclip_export.int8.accept import NotWorthItError, measure_accuracy, measure_speed
from numclip_export.int8.data import Int8Data
from numclip_export.int8.linear import Linear, linear_layers
from numclip_export.int8.quantize import dynamic_int8, static_int8
from numclip_export.int8.ranges import cached_ranges
from numclip_export.int8.smooth import smooth_layer_norms
from numclip_export.node_names import module_of
from numclip_export.onnx_graph import features_name
from numclip_export.onnx_model import save_with_metadata
from numclip_export.parity import Gate, Parity
from numclip_export.precision import fp16_from_fp32, head_nodes
from numclip_export.uint8_input import with_uint8_input
from numclip_export.widen import BLOCK, fp32_parts
from numclip_runtime import ModelMetadata, UsageError, load

Int8Form = Literal["dynamic", "static"]  # onnxruntime on the CPU; TensorRT's Q/DQ


def write_int8(
    model: onnx.ModelProto,
    metadata: ModelMetadata,
    temporary: Path,
    path: Path,
    gate: Gate | None,
    *,
    form: Int8Form,
    data: Int8Data,
    fp32_file: Path,
) -> Artefact:
    """Write an INT8 graph: the linear layers of the transformer's or network's blocks.

    Args:
        model: float32 graph, itself in parity.
        metadata: Of the INT8 file, without parity; says what its input is to be.
        temporary: Where to write.
        path: Its later name.
        gate: None: write unproved.
        form: Which target it is for.
        data: What to calibrate with and to judge by.
        fp32_file: Verified float32 file, which a CPU file must beat.

    Raises:
        NotWorthItError: if it is less accurate than the budget allows, or not faster.
        UsageError: if the model has no layer to quantise.
    """
    started = time.perf_counter()
    details: dict[str, Any] = {"form": form}
    quantised, layers = quantise(model, metadata, form, data, details)
    parity = None
    if gate is not None:
        parity = _parity(quantised, features_name(model), metadata, temporary, gate, form)
        details |= _judge(parity, metadata, temporary, path, data, form, fp32_file)
    if form == "static":
        details["fp32_nodes"] = list(fp32_parts(quantised))
        metadata = replace(metadata, fp32_nodes=fp32_parts(quantised))
    artefact = finish(quantised, metadata, temporary, path, parity, started)
    artefact.details.update(details, int8_layers=len(layers))
    return artefact


def quantise(
    model: onnx.ModelProto,
    metadata: ModelMetadata,
    form: Int8Form,
    data: Int8Data,
    details: dict[str, Any],
) -> tuple[onnx.ModelProto, list[Linear]]:
    """Return the INT8 graph and its quantised layers; `details` gains what the report says."""
    layers = quantisable(model, form)
    if not layers:
        raise UsageError(
            "this model has no linear layers that INT8 would speed up on this target; "
            "use --fp16 for a GPU, or the float32 file on a CPU."
        )
    ranges, cached = cached_ranges(model, layers, data.calibration, data.cache)
    balanced = onnx.ModelProto()
    balanced.CopyFrom(model)
    scales = smooth_layer_norms(balanced, layers, ranges)
    names = {layer.node for layer in layers}
    layers = linear_layers(balanced, names.__contains__)
    details["calibration"] = {
        "source": data.source,
        "images": len(data.calibration),
        "from_cache": cached,
        "balanced_tensors": len(scales),
    }
    if form == "dynamic":
        return dynamic_int8(balanced, layers), layers
    if metadata.input == "uint8":
        balanced = with_uint8_input(balanced, metadata.preprocessing)
    now = {name: found / scales.get(name, 1) for name, found in ranges.items()}
    explicit = static_int8(balanced, layers, now)
    return fp16_from_fp32(explicit, head_nodes(explicit)), layers


def quantisable(model: onnx.ModelProto, form: Int8Form) -> list[Linear]:
    """Return the linear layers of the blocks: neither the stem, nor the projection, nor the head.

    They are a few percent of the work, and the first and last layers feel rounding most.
    """
    layers = linear_layers(model, lambda name: BLOCK.match(module_of(name)) is not None)
    return [layer for layer in layers if layer.op != "Conv" or form == "static"]


def _parity(
    quantised: onnx.ModelProto,
    features_tensor: str,
    metadata: ModelMetadata,
    temporary: Path,
    gate: Gate,
    form: Int8Form,
) -> Parity:
    images = gate.images.of_kind(metadata.input)
    if form == "static":  # float16 tensors between: rounded for real
        run = GraphRun(quantised)
        return gate.judge(run, "int8", run.features(images), kind=metadata.input)
    features = GraphRun(quantised, features_tensor).features(images)
    save_with_metadata(quantised, metadata, temporary)
    with load(temporary) as predictor:
        return gate.judge(predictor.backend.run, "int8", features)


def _judge(
    parity: Parity,
    metadata: ModelMetadata,
    temporary: Path,
    path: Path,
    data: Int8Data,
    form: Int8Form,
    fp32_file: Path,
) -> dict[str, Any]:
    """Return what was measured.

    Raises:
        NotWorthItError: if it speaks against the file.
    """
    unit = metadata.task.unit
    if not parity.passed:
        raise NotWorthItError(
            f"{path}: not kept, {difference(parity)}; use --fp16 for a GPU, or the float32 file."
        )
    if form == "static":
        return {"speed": None, "speed_note": "not measured: no engine of it runs here"}
    accuracy = None
    if len(data.labels):
        accuracy = measure_accuracy(fp32_file, temporary, data.labelled, data.labels)
        if not accuracy.passed:
            raise NotWorthItError(
                f"{path}: not kept, on {accuracy.images} labelled images its MAE is "
                f"{accuracy.mae_int8:.3g} {unit} against {accuracy.mae_fp32:.3g} in float32 "
                f"(allowed: {accuracy.tolerance:.3g} more); use the float32 file."
            )
    speed = measure_speed(fp32_file, temporary, data.calibration)
    if not speed.passed:
        raise NotWorthItError(
            f"{path}: not kept, it is no faster here: {speed.int8_ms:.2f} ms against "
            f"{speed.baseline_ms:.2f} ms in {speed.baseline} ({speed.backend}, one image); its "
            f"values differ by {parity.mean_value_error:.2g} {unit} in the mean. Use the "
            f"{speed.baseline} file."
        )
    return {"accuracy": accuracy and accuracy.to_dict(), "speed": speed.to_dict()}
