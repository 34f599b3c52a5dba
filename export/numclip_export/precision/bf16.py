"""Prove that a file may run in bfloat16: on this CPU, or by rounding each tensor.

Of a float32 file all of the image encoder, of an INT8 file what is not INT8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto

from numclip.evaluation.timing import images_per_run, lower_quartiles_ms
from numclip_export.graph.edit import copy_of, set_nodes
from numclip_export.graph.names import in_image_encoder
from numclip_export.graph.types import features_name, tensor_types
from numclip_export.parity import ParityError, Reference, Run
from numclip_export.precision.fp16 import MOVERS, lift_constants
from numclip_export.precision.fp16_emulation import GraphRun, rounded
from numclip_runtime import load
from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends.bf16 import why_no_bf16
from numclip_runtime.backends.openvino import OpenVinoBackend
from numclip_runtime.metadata import Arithmetic, Bf16Proof, InputKind
from numclip_runtime.preprocess import InputArray

PRODUCTS = frozenset(("Attention", "Conv", "Gemm", "MatMul"))  # they read rounded weights


def bf16_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph whose image encoder rounds as bfloat16 does.

    Every tensor that an operator of it computes, and all that products read, are rounded; sums
    inside an operator are float32, as in the CPU's instructions. OpenVINO rounds less: it keeps
    some operators in float32, so what passes here passes there.

    Args:
        model: float32 graph with unique node names and no subgraphs; left as it is.
    """
    twin = copy_of(model)
    graph = twin.graph
    lift_constants(graph)
    floats = {name for name, kind in tensor_types(twin).items() if kind == TensorProto.FLOAT}
    given = {tensor.name for tensor in (*graph.initializer, *graph.input)} & floats
    known: set[str] = set()  # of `given`, those with a rounded twin
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        inside = in_image_encoder(node.name)
        if inside and node.op_type in PRODUCTS:
            for i, name in enumerate(node.input):
                if name not in given:
                    continue
                if name not in known:
                    known.add(name)
                    nodes += rounded(name, f"{name}_bf16", TensorProto.BFLOAT16)
                node.input[i] = f"{name}_bf16"
        nodes.append(node)
        if inside and node.op_type not in MOVERS:  # they move rounded numbers
            for i, name in enumerate(node.output):
                if name in floats:
                    node.output[i] = f"{name}_unrounded"
                    nodes += rounded(node.output[i], name, TensorProto.BFLOAT16)
    del graph.value_info[:]
    set_nodes(graph, nodes)
    return twin


def prove_bf16(
    written: Path,
    model: onnx.ModelProto,
    reference: Reference,
    *,
    features: str | None = None,
    precision: Arithmetic = "bf16",
    kind: InputKind = "float32",
    batch: int = 1,
    judge: Callable[[Run], object] = lambda run: None,
) -> tuple[Bf16Proof, dict[str, Any]]:
    """Compare a file in bfloat16 with the checkpoint.

    OpenVINO computes it where it can here, and is timed against the file as users run it otherwise;
    else each tensor is rounded, and the time is not known.

    Args:
        written: The file.
        model: Its graph.
        reference: Of the checkpoint.
        features: Tensor that leaves the image encoder; None finds it by the nodes' names.
        precision: Its budget applies.
        kind: The file's kind of input.
        batch: Images per timed run.
        judge: Raises a ParityError if a run is not good enough for another reason.

    Returns:
        The proof, and its part of the report.

    Raises:
        ParityError: with the reason alone, if it is beyond the budget, or no faster.
    """
    features, images = features or features_name(model), reference.images.of_kind(kind)
    if (problem := why_no_bf16()) is not None:
        run = GraphRun(bf16_twin(model), features)
        parity = reference.judge(run, precision, run.features(images), kind=kind)
        judge(run)
        by: Literal["openvino", "emulation"] = "emulation"
        details: dict[str, Any] = {"by": f"emulation: {problem}", "speed": None}
    else:
        backend = OpenVinoBackend(written, OpenOptions(threads=1), proving=features)
        try:
            parity = reference.judge(backend.run, precision, kind=kind)
            judge(backend.run)
            by = "openvino"
            details = {"by": "openvino", "speed": _speed(written, backend.run, images, batch)}
        finally:
            backend.close()
    if not parity.passed:
        raise ParityError(f"in bfloat16 {parity.difference}")
    if (speed := details["speed"]) is not None and speed["bf16_ms"] >= speed["fp32_ms"]:
        raise ParityError(
            f"bfloat16 is no faster here: {speed['bf16_ms']:.2f} ms against "
            f"{speed['fp32_ms']:.2f} ms in float32 ({images_per_run(batch)}, one thread)"
        )
    errors = parity.max_value_error, parity.mean_value_error, parity.max_prob_error
    return Bf16Proof(features, *errors, by), details | {"parity": parity.to_dict()}


def _speed(written: Path, run: Run, images: InputArray, batch: int) -> dict[str, Any]:
    """Time bfloat16 against float32 in the backend that runs it by default."""
    with load(written, device="cpu", threads=1, bf16=False) as exact:
        both = [(exact.backend.run, images), (run, images)]
        fp32_ms, bf16_ms = lower_quartiles_ms(both, batch=batch)
        speed = {"fp32_with": exact.backend.name, "fp32_ms": fp32_ms, "bf16_ms": bf16_ms}
        return speed | {"batch": batch}
