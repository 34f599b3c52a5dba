"""One file of an export: written, compared with the checkpoint, described."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from numclip_export.graph.onnx_model import operators, parameter_count, save_with_metadata
from numclip_export.graph.run import GraphRun
from numclip_export.graph.types import precision_counts
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.parity import Gate, Parity, ParityError
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes, nodes_beyond_fp16
from numclip_export.precision.fp16_emulation import require_rounding
from numclip_export.precision.mixed_precision_search import Attempt, Network, attempts, fp32_parts
from numclip_runtime import ModelMetadata, load
from numclip_runtime.files import sha256
from numclip_runtime.metadata import InputKind


@dataclass(frozen=True)
class Artefact:
    """A finished file, and what the report says of it."""

    path: Path  # its final name
    sha256: str
    parity: Parity | None  # None: not verified
    details: dict[str, Any]


def write_fp32(
    model: onnx.ModelProto, metadata: ModelMetadata, temporary: Path, path: Path, gate: Gate | None
) -> Artefact:
    """Write a float32 graph, and run the file as users will.

    Args:
        model: Graph of the folded model.
        metadata: Without parity.
        temporary: Where to write.
        path: Its later name.
        gate: None: do not verify.

    Raises:
        ParityError: if it differs from the checkpoint.
    """
    started = time.perf_counter()
    parity = None
    if gate is not None:
        save_with_metadata(model, metadata, temporary)
        features = GraphRun(model).features(gate.images.inputs)
        with load(temporary, device="cpu") as predictor:  # a GPU rounds otherwise
            parity = gate.judge(predictor.backend.run, "fp32", features)
        if not parity.passed:
            raise ParityError(
                f"{path}: not kept, {difference(parity)}; another --opset may help, "
                "--atol allows more."
            )
    return finish(model, metadata, temporary, path, parity, started)


def write_fp16(
    model: onnx.ModelProto, metadata: ModelMetadata, temporary: Path, path: Path, gate: Gate | None
) -> Artefact:
    """Write a float16 graph whose float32 part is as large as parity needs.

    Args:
        model: float32 graph, itself in parity.
        metadata: Of the float16 file, without parity; says what its input is to be.
        temporary: Where to write.
        path: Its later name.
        gate: None: do not verify, keep the head in float32 and hope.

    Raises:
        ParityError: if it differs from the checkpoint however large the float32 part.
        UsageError: if the installed onnxruntime cannot show float16 rounding.
    """
    started = time.perf_counter()
    if metadata.input == "uint8":
        model = with_uint8_input(model, metadata.preprocessing)
    widening: list[dict[str, Any]] = []
    if gate is None:
        half, parity = fp16_from_fp32(model, head_nodes(model)), None
    else:
        require_rounding()
        chosen = _first_that_passes(model, gate, metadata.input, path, widening)
        half, parity = chosen.model, chosen.parity
    parts = fp32_parts(half)
    artefact = finish(half, replace(metadata, fp32_nodes=parts), temporary, path, parity, started)
    artefact.details.update(
        fp32_nodes=list(parts),
        weights_beyond_fp16=sorted(nodes_beyond_fp16(model)),
        widening=widening,
    )
    return artefact


def _first_that_passes(
    model: onnx.ModelProto,
    gate: Gate,
    kind: InputKind,
    path: Path,
    widening: list[dict[str, Any]],
) -> Attempt:
    images = gate.images.of_kind(kind)

    def judge(half: onnx.ModelProto) -> Parity:
        run = GraphRun(half)
        return gate.judge(run, "fp16", run.features(images), kind=kind)

    for attempt in attempts(Network(model, images), judge):
        widening.append(attempt.to_dict())
        if attempt.parity.passed:
            return attempt
    raise ParityError(
        f"{path}: not kept, {difference(attempt.parity)}, with all but the first layers in "
        f"float32 ({_errors(widening)}); use the fp32 file, or --atol to allow more."
    )


def difference(parity: Parity) -> str:
    """Say how far an artefact is from its checkpoint, and how far it may be."""
    where = "by up to" if parity.judged_by == "max" else "in the mean by"
    return (
        f"its values differ from the checkpoint's {where} {parity.judged_value_error:.3g} (allowed "
        f"{parity.value_tolerance:.3g}) and its probabilities by {parity.max_prob_error:.3g} "
        f"(allowed {parity.prob_tolerance:g})"
    )


def _errors(widening: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{step['step']}: {step['max_value_error']:.3g}" for step in widening)


def finish(
    model: onnx.ModelProto,
    metadata: ModelMetadata,
    temporary: Path,
    path: Path,
    parity: Parity | None,
    started: float,
    *,
    written: onnx.ModelProto | None = None,
) -> Artefact:
    """Write the file with what was reached, and describe it.

    Args:
        model: What is described.
        metadata: Without parity.
        temporary: Where to write.
        path: Its later name.
        parity: What was reached; None: not verified.
        started: Of `time.perf_counter`.
        written: The same graph as it goes into the file; None: `model` itself.
    """
    metadata = replace(metadata, verified=parity is not None)
    if parity is not None:
        reached = {name: getattr(parity, name) for name in ("max_value_error", "max_prob_error")}
        metadata = replace(metadata, parity=reached)
    save_with_metadata(written or model, metadata, temporary)
    if metadata.precision != "fp32" and parity is not None:
        with load(temporary, device="cpu"):
            pass  # the runtime opens what was compared in memory
    digest = sha256(temporary)
    details = {
        "file": path.name,
        "precision": metadata.precision,
        "bytes": temporary.stat().st_size,
        "sha256": digest,
        "source_sha256": metadata.source_sha256,
        "opset": model.opset_import[0].version,
        "parameters": parameter_count(model),
        "nodes": precision_counts(model),
        "operators": operators(model),
        "verified": parity is not None,
        "parity": parity and parity.to_dict(),
        "seconds": round(time.perf_counter() - started, 2),
    }
    return Artefact(path, digest, parity, details)
