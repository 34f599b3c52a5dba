"""Write the INT8 file of a model, or refuse it with the figures that speak against it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx

from numclip_export.exported_file import Artefact, difference, finish
from numclip_export.graph.names import module_of
from numclip_export.graph.onnx_model import save_with_metadata
from numclip_export.graph.run import GraphRun
from numclip_export.graph.types import features_name
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.int8.acceptance import NotWorthItError, measure_accuracy, measure_speed
from numclip_export.int8.calibration import Int8Data, normalised
from numclip_export.int8.convolutions import convolutional_int8, convolutions
from numclip_export.int8.layers import Linear, linear_layers
from numclip_export.int8.offline import optimised_for_cpu
from numclip_export.int8.patch_embedding import with_pixel_stem
from numclip_export.int8.quantize import dynamic_int8, static_int8
from numclip_export.int8.ranges import cached_ranges
from numclip_export.int8.smooth import smooth_layer_norms
from numclip_export.parity import Gate, Parity, Run
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_export.precision.mixed_precision_search import BLOCK, fp32_parts
from numclip_runtime import ModelMetadata, UsageError, load
from numclip_runtime.metadata import InputKind

# dynamic: linear layers for onnxruntime on a CPU, activations measured at run time; qdq:
# convolutions for a CPU, measured beforehand; static: TensorRT's Q/DQ
Int8Form = Literal["dynamic", "qdq", "static"]


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
        form: Which target it is for; "dynamic" becomes "qdq" where only convolutions are.
        data: What to calibrate with and to judge by.
        fp32_file: Verified float32 file, which a CPU file must beat.

    Raises:
        NotWorthItError: if it is less accurate than the budget allows, or not faster.
        UsageError: if the model has no layer to quantise.
    """
    started = time.perf_counter()
    if form == "dynamic" and not quantisable(model, form):
        form = "qdq"
    details: dict[str, Any] = {"form": form}
    quantised, layers = quantise(model, metadata, form, data, details)
    features, written = features_name(model), quantised
    if form == "dynamic":
        pixels = None
        if metadata.input == "uint8":
            pixels = with_pixel_stem(quantised, metadata.preprocessing)
        quantised = pixels or quantised
        written, optimizer = optimised_for_cpu(quantised, features)
        kind: InputKind = "float32" if pixels is None else "uint8"
        metadata = replace(metadata, input=kind, optimized_by=optimizer)
    elif form == "qdq":
        metadata = replace(metadata, input="float32")
    details["input"] = metadata.input
    parity = None
    if gate is not None:
        parity, measured = _prove(
            quantised,
            written,
            features,
            metadata,
            temporary,
            path,
            gate,
            form,
            data,
            fp32_file,
        )
        details |= measured
    if form == "static":
        details["fp32_nodes"] = list(fp32_parts(quantised))
        metadata = replace(metadata, fp32_nodes=fp32_parts(quantised))
    artefact = finish(quantised, metadata, temporary, path, parity, started, written=written)
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
    if form == "qdq":
        if data.cache is not None:
            raise UsageError(
                "--calib-cache is not used for convolutional networks on a CPU; leave it out."
            )
        details["calibration"] = {"source": data.source, "images": len(data.calibration)}
        return convolutional_int8(model, data.calibration), layers
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

    They are a few percent of the work, and the first and last layers feel rounding most. A CPU's
    convolutions are quantised in a chain from the pixels on: only so are they integer.
    """
    if form == "qdq":
        return convolutions(model)
    layers = linear_layers(model, lambda name: BLOCK.match(module_of(name)) is not None)
    return [layer for layer in layers if layer.op != "Conv" or form == "static"]


def _prove(
    quantised: onnx.ModelProto,
    written: onnx.ModelProto,
    features_tensor: str,
    metadata: ModelMetadata,
    temporary: Path,
    path: Path,
    gate: Gate,
    form: Int8Form,
    data: Int8Data,
    fp32_file: Path,
) -> tuple[Parity, dict[str, Any]]:
    """Return the parity, and what else was measured.

    Raises:
        NotWorthItError: if it speaks against the file.
    """
    images = gate.images.of_kind(metadata.input)
    save_with_metadata(written, metadata, temporary)
    with load(fp32_file, device="cpu") as exact, load(temporary, device="cpu") as opened:
        # float16 tensors between INT8 layers: rounded for real, which onnxruntime does not
        graph = GraphRun(quantised, None if form == "static" else features_tensor)
        run: Run = graph if form == "static" else opened.backend.run
        features = graph.features(images)
        parity = gate.judge(run, "int8", features, kind=metadata.input)
        if not parity.passed:
            raise NotWorthItError(
                f"{path}: not kept, {difference(parity)}; use --fp16 for a GPU, or the float32 "
                "file."
            )
        accuracy = None
        if len(data.labels):
            planes = normalised(data.labelled, metadata.preprocessing)
            both = (planes, data.labelled if metadata.input == "uint8" else planes)
            accuracy = measure_accuracy(exact.backend.run, run, both, data.labels, metadata.task)
            accuracy.check(path, metadata.task)
    measured: dict[str, Any] = {"accuracy": accuracy and accuracy.to_dict(), "speed": None}
    if form != "static":
        speed = measure_speed(fp32_file, temporary, gate.images.of_kind)
        speed.check(path)
        measured["speed"] = speed.to_dict()
    return parity, measured
