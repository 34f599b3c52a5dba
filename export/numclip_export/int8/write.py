"""Write the INT8 file of a model, or refuse it with the figures that speak against it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from numclip_export.engine.build_options import OPT_BATCH
from numclip_export.exported_file import Draft, ExportedFile
from numclip_export.graph.edit import copy_of
from numclip_export.graph.run import extremes
from numclip_export.graph.types import features_name
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.images import normalised
from numclip_export.int8.acceptance import NotWorthItError, measure_accuracy, measure_speed
from numclip_export.int8.calibration import Int8Data, cached_ranges
from numclip_export.int8.layers import Int8Form, linear_layers, quantisable
from numclip_export.int8.patch_embedding import with_pixel_stem
from numclip_export.int8.quantize import (
    asymmetric_grids,
    convolutional_int8,
    dynamic_int8,
    optimised_for_cpu,
    static_int8,
    symmetric_grids,
)
from numclip_export.int8.smooth import smooth_layer_norms
from numclip_export.options import CPU_TARGETS, Target
from numclip_export.parity import Parity, ParityError, Reference, Run
from numclip_export.precision.bf16 import prove_bf16
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_export.precision.fp16_emulation import GraphRun
from numclip_export.precision.mixed_precision_search import fp32_parts
from numclip_runtime import ModelMetadata, UsageError, load
from numclip_runtime.metadata import Bf16Proof, InputKind


class NothingToQuantiseError(UsageError):
    """The model has no layer that INT8 would speed up on its target."""


@dataclass(frozen=True)
class Quantised:
    """An INT8 graph, as it is described and as it goes into the file."""

    form: Int8Form
    graph: onnx.ModelProto
    written: onnx.ModelProto  # optimised for onnxruntime where the form is dynamic, else `graph`
    features: str  # tensor that leaves the image encoder
    metadata: ModelMetadata  # of the file, without parity
    details: dict[str, Any]  # of the report


def write_int8(
    draft: Draft,
    model: onnx.ModelProto,
    metadata: ModelMetadata,
    reference: Reference | None,
    *,
    form: Int8Form,
    data: Int8Data,
    fp32_file: Path,
) -> ExportedFile:
    """Write an INT8 graph: the linear layers of the transformer's or network's blocks.

    Args:
        draft: Where to write.
        model: float32 graph, itself in parity.
        metadata: Of the INT8 file, without parity; names its kind of input.
        reference: None skips verification.
        form: See `int8_form`.
        data: Images to calibrate with and to judge by.
        fp32_file: Verified float32 file, which a CPU file must beat.

    Raises:
        NotWorthItError: if it is less accurate than the budget allows, or not faster.
        NothingToQuantiseError: if the model has no layer to quantise.
    """
    quantised = quantise(model, metadata, form, data)
    draft.write(quantised.written, quantised.metadata)
    metadata, parity = quantised.metadata, None
    details = quantised.details | {"input": metadata.input}
    if reference is not None:
        parity, proof, measured = _prove(draft, quantised, reference, data, fp32_file)
        metadata, details = replace(metadata, bf16=proof), details | measured
    return draft.finish(metadata, parity, quantised.graph, **details)


def int8_form(model: onnx.ModelProto, target: Target) -> Int8Form:
    """Return the form that a target runs fastest: of a CPU it depends on the network."""
    if target not in CPU_TARGETS:
        return "static"
    wanted: Int8Form = "dynamic" if target == "cpu" else "asymmetric"
    return wanted if quantisable(model, wanted) else "qdq"


def quantise(
    model: onnx.ModelProto, metadata: ModelMetadata, form: Int8Form, data: Int8Data
) -> Quantised:
    """Return the INT8 graph.

    Raises:
        NothingToQuantiseError: if the model has no layer to quantise.
        UsageError: if the form uses no calibration cache.
    """
    layers = quantisable(model, form)
    if not layers:
        raise NothingToQuantiseError(
            "this model has no linear layers that INT8 would speed up on this target; "
            "use --fp16 for a GPU, or the float32 file on a CPU."
        )
    calibration: dict[str, Any] = {"source": data.source, "images": len(data.calibration)}
    details: dict[str, Any] = {"form": form, "int8_layers": len(layers), "calibration": calibration}
    if form == "qdq":
        if data.cache is not None:
            raise UsageError(
                "--calib-cache is not used for convolutional networks on a CPU; leave it out."
            )
        graph = convolutional_int8(model, data.calibration)
        metadata = replace(metadata, input="float32")
        return Quantised(form, graph, graph, features_name(model), metadata, details)
    ranges, cached = cached_ranges(model, layers, data.calibration, data.cache)
    balanced = copy_of(model)
    scales = smooth_layer_norms(balanced, layers, ranges)
    layers = linear_layers(balanced, {layer.node for layer in layers}.__contains__)
    calibration.update(from_cache=cached, balanced_tensors=len(scales))
    if form == "dynamic":
        graph = dynamic_int8(balanced, layers)
        stem = None
        if metadata.input == "uint8":
            stem = with_pixel_stem(graph, metadata.preprocessing)
        graph, features = stem or graph, features_name(model)
        written, optimizer = optimised_for_cpu(graph, features)
        kind: InputKind = "float32" if stem is None else "uint8"
        metadata = replace(metadata, input=kind, optimized_by=optimizer)
        return Quantised(form, graph, written, features, metadata, details)
    if form == "asymmetric":
        read = dict.fromkeys(layer.activation for layer in layers)
        grids = asymmetric_grids(extremes(balanced, read, data.calibration))
    else:
        now = {name: found / scales.get(name, 1) for name, found in ranges.items()}
        grids = symmetric_grids(now)
    if metadata.input == "uint8":
        balanced = with_uint8_input(balanced, metadata.preprocessing)
    explicit = static_int8(balanced, layers, grids)
    if form == "asymmetric":
        return Quantised(form, explicit, explicit, features_name(explicit), metadata, details)
    graph = fp16_from_fp32(explicit, head_nodes(explicit))
    metadata = replace(metadata, fp32_nodes=fp32_parts(graph))
    details["fp32_nodes"] = list(metadata.fp32_nodes)
    return Quantised(form, graph, graph, features_name(graph), metadata, details)


def _prove(
    draft: Draft, quantised: Quantised, reference: Reference, data: Int8Data, fp32_file: Path
) -> tuple[Parity, Bf16Proof | None, dict[str, Any]]:
    """Return the parity, the proof of bfloat16 beside INT8, and the other measurements.

    Raises:
        NotWorthItError: if they speak against the file.
    """
    metadata, static = quantised.metadata, quantised.form == "static"
    images = reference.images.of_kind(metadata.input)
    proof, measured = None, dict[str, Any](accuracy=None, speed=None)
    with load(fp32_file, device="cpu") as exact, draft.open() as opened:

        def accuracy_of(run: Run) -> dict[str, Any] | None:
            if not len(data.labels):
                return None
            planes = normalised(data.labelled, metadata.preprocessing)
            both = (planes, data.labelled if metadata.input == "uint8" else planes)
            accuracy = measure_accuracy(exact.backend.run, run, both, data.labels, metadata.task)
            if not accuracy.passed:
                raise ParityError(accuracy.difference(metadata.task))
            return asdict(accuracy) | {"passed": True}

        # float16 tensors between INT8 layers: rounded for real, which onnxruntime does not do
        graph = GraphRun(quantised.graph, quantised.features)
        run = graph if static else opened.backend.run
        parity = reference.judge(run, "int8", graph.features(images), kind=metadata.input)
        try:
            if not parity.passed:
                raise ParityError(parity.difference)
            measured["accuracy"] = accuracy_of(run)
        except ParityError as error:
            raise NotWorthItError(
                f"{draft.path}: not kept, {error}; use --fp16 for a GPU, or the float32 file."
            ) from None
        if metadata.backend == "openvino":
            try:
                proof, measured["bf16"] = prove_bf16(
                    draft.temporary,
                    quantised.graph,
                    reference,
                    features=quantised.features,
                    precision="int8",
                    kind=metadata.input,
                    batch=OPT_BATCH,
                    judge=accuracy_of,
                )
            except ParityError as error:
                measured["bf16_note"] = f"all but INT8 stays in float32: {error}"
    if not static:
        batch = OPT_BATCH if quantised.form == "asymmetric" else 1
        speed = measure_speed(fp32_file, draft.temporary, reference.images.of_kind, batch=batch)
        if not speed.passed:
            raise NotWorthItError(f"{draft.path}: not kept, {speed.refusal()}.")
        measured["speed"] = asdict(speed) | {"passed": True}
    return parity, proof, measured
