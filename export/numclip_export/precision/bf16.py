"""Prove that a float32 file may run in bfloat16: on this CPU, or by rounding each tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto

from numclip.evaluation.timing import lower_quartiles_ms
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
from numclip_runtime.metadata import Bf16Proof

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
    path: Path, written: Path, model: onnx.ModelProto, reference: Reference
) -> tuple[Bf16Proof, dict[str, Any]]:
    """Compare a float32 file in bfloat16 with the checkpoint.

    OpenVINO computes it where it can here, and is timed against the float32 file as users run it;
    else each tensor is rounded, and the time is not known.

    Args:
        path: Final name of the file, for errors.
        written: Where it is.
        model: Its graph.
        reference: Of the checkpoint.

    Returns:
        The proof, and its part of the report.

    Raises:
        ParityError: if it is beyond the budget, or no faster.
    """
    features = features_name(model)
    if (problem := why_no_bf16()) is not None:
        run = GraphRun(bf16_twin(model), features)
        parity = reference.judge(run, "bf16", run.features(reference.images.inputs))
        by: Literal["openvino", "emulation"] = "emulation"
        details: dict[str, Any] = {"by": f"emulation: {problem}", "speed": None}
    else:
        backend = OpenVinoBackend(written, OpenOptions(threads=1), proving=features)
        try:
            parity = reference.judge(backend.run, "bf16")
            by = "openvino"
            details = {"by": "openvino", "speed": _speed(written, backend.run, reference)}
        finally:
            backend.close()
    if not parity.passed:
        raise ParityError(
            f"{path}: not kept, in bfloat16 {parity.difference}; leave --bf16 out, or use --int8."
        )
    if (speed := details["speed"]) is not None and speed["bf16_ms"] >= speed["fp32_ms"]:
        raise ParityError(
            f"{path}: not kept, bfloat16 is no faster here: {speed['bf16_ms']:.2f} ms against "
            f"{speed['fp32_ms']:.2f} ms in float32 (one image, one thread); leave --bf16 out."
        )
    errors = parity.max_value_error, parity.mean_value_error, parity.max_prob_error
    return Bf16Proof(features, *errors, by), details | {"parity": parity.to_dict()}


def _speed(written: Path, run: Run, reference: Reference) -> dict[str, Any]:
    """Time bfloat16 against float32 in the backend that runs it by default."""
    images = reference.images.inputs
    with load(written, device="cpu", threads=1, bf16=False) as exact:
        fp32_ms, bf16_ms = lower_quartiles_ms([(exact.backend.run, images), (run, images)])
        return {"fp32_with": exact.backend.name, "fp32_ms": fp32_ms, "bf16_ms": bf16_ms}
