"""The ONNX files of an export: a graph written once, compared with the checkpoint, described."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from numclip_export.graph.onnx_model import (
    metadata_entry,
    operators,
    parameter_count,
    save_with_metadata,
)
from numclip_export.graph.types import precision_counts
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.parity import Parity, ParityError, Reference
from numclip_export.precision.bf16 import prove_bf16
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes, nodes_beyond_fp16
from numclip_export.precision.fp16_emulation import GraphRun, require_rounding
from numclip_export.precision.mixed_precision_search import Attempt, Network, attempts, fp32_parts
from numclip_runtime import ModelError, ModelMetadata, Predictor, load
from numclip_runtime.backends import OpenOptions, open_backend
from numclip_runtime.files import naming
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.preprocess import FloatArray

Outputs: TypeAlias = tuple[FloatArray, FloatArray]  # values (B,), bin_probs (B, K)


@dataclass(frozen=True)
class ExportedFile:
    """A finished file and its part of the report."""

    path: Path  # its final name
    sha256: str
    metadata: ModelMetadata  # also inside the file
    parity: Parity | None  # None: not verified
    details: dict[str, Any]  # of the report


@dataclass
class Draft:
    """A file that is being written. Its graph is written once; the metadata after it may change."""

    path: Path  # its final name, for errors
    temporary: Path  # where it is written
    started: float = field(default_factory=time.perf_counter)
    graph_bytes: int = 0
    compared: Outputs | None = None  # of a grey image, from the file that was compared

    def write(self, model: onnx.ModelProto, metadata: ModelMetadata) -> None:
        """Write the graph, and metadata without parity."""
        with naming(self.path):
            self.graph_bytes = save_with_metadata(model, metadata, self.temporary)

    @contextmanager
    def open(self) -> Iterator[Predictor]:
        """Open the file on the CPU, without bfloat16; a GPU would round differently."""
        with load(self.temporary, device="cpu", bf16=False) as predictor:
            self.compared = run_grey(predictor)
            yield predictor

    def finish(
        self,
        metadata: ModelMetadata,
        parity: Parity | None,
        described: onnx.ModelProto,
        **details: Any,
    ) -> ExportedFile:
        """Put the parity behind the graph that was compared, then open and run the file again.

        Args:
            metadata: Without parity.
            parity: Result of the comparison; None: not verified.
            described: Graph to describe in the report.
            details: More for the report.

        Raises:
            ModelError: if the finished file does not run, or gives other numbers than the one that
                was compared.
        """
        metadata = replace(metadata, verified=parity is not None)
        if parity is not None:
            names = ("max_value_error", "max_prob_error")
            metadata = replace(metadata, parity={name: getattr(parity, name) for name in names})
        with naming(self.path), self.temporary.open("r+b") as file:
            file.truncate(self.graph_bytes)
            file.seek(self.graph_bytes)
            file.write(metadata_entry(metadata))
        with OpenModel(self.temporary) as kept:  # the bytes that are hashed are those that run
            with Predictor(open_backend(kept, OpenOptions(device="cpu", bf16=False))) as predictor:
                assert predictor.metadata == metadata
                found = run_grey(predictor)
            digest, size = kept.sha256(), kept.size
            kept.check_unchanged()
        if parity is not None and not all(np.isfinite(array).all() for array in found):
            raise ModelError(f"{self.path}: not kept, the finished file gives no numbers.")
        if self.compared is not None and not all(map(np.array_equal, found, self.compared)):
            raise ModelError(
                f"{self.path}: not kept, the finished file gives other numbers than the one that "
                "was compared; this machine's disk or memory may be faulty."
            )
        report = {
            "file": self.path.name,
            "precision": metadata.precision,
            "bytes": size,
            "sha256": digest,
            "source_sha256": metadata.source_sha256,
            "opset": described.opset_import[0].version,
            "parameters": parameter_count(described),
            "nodes": precision_counts(described),
            "operators": operators(described),
            "verified": parity is not None,
            "parity": parity and parity.to_dict(),
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        return ExportedFile(self.path, digest, metadata, parity, report | details)


def run_grey(predictor: Predictor) -> Outputs:
    """Run a model on a grey image; values (1,) and bin_probs (1, K)."""
    side = predictor.metadata.preprocessing.crop
    image = predictor.preprocess(np.full((side, side, 3), 128, np.uint8))
    return predictor.backend.run(image[None])


def write_fp32(
    draft: Draft,
    model: onnx.ModelProto,
    metadata: ModelMetadata,
    reference: Reference | None,
    *,
    bf16: bool = False,
) -> ExportedFile:
    """Write a float32 graph, and run the file as users will.

    Args:
        draft: Where to write.
        model: Graph of the folded model.
        metadata: Without parity.
        reference: None skips verification.
        bf16: Prove as well that it may run in bfloat16; needs the reference.

    Raises:
        ParityError: if it differs from the checkpoint, or bfloat16 does, or is no faster.
    """
    draft.write(model, metadata)
    parity, details = None, {}
    if reference is not None:
        features = GraphRun(model).features(reference.images.inputs)
        with draft.open() as predictor:
            parity = reference.judge(predictor.backend.run, "fp32", features)
        if not parity.passed:
            raise ParityError(
                f"{draft.path}: not kept, {parity.difference}; another --opset may help, "
                "--atol allows more."
            )
        if bf16:
            try:
                proof, details["bf16"] = prove_bf16(draft.temporary, model, reference)
            except ParityError as error:
                raise ParityError(
                    f"{draft.path}: not kept, {error}; leave --bf16 out, or use --int8."
                ) from None
            metadata = replace(metadata, bf16=proof)
    return draft.finish(metadata, parity, model, **details)


def write_fp16(
    draft: Draft, model: onnx.ModelProto, metadata: ModelMetadata, reference: Reference | None
) -> ExportedFile:
    """Write a float16 graph whose float32 part is as large as parity needs.

    Args:
        draft: Where to write.
        model: float32 graph, itself in parity.
        metadata: Of the float16 file, without parity; names its kind of input.
        reference: None keeps the head in float32 and skips verification.

    Raises:
        ParityError: if it differs from the checkpoint however large the float32 part.
        UsageError: if the installed onnxruntime cannot emulate float16 rounding.
    """
    if metadata.input == "uint8":
        model = with_uint8_input(model, metadata.preprocessing)
    widening: list[dict[str, Any]] = []
    if reference is None:
        half, parity = fp16_from_fp32(model, head_nodes(model)), None
    else:
        require_rounding()
        found, widening = _search(model, reference, metadata, draft.path)
        half, parity = found.model, found.parity
    parts = fp32_parts(half)
    metadata = replace(metadata, fp32_nodes=parts)
    draft.write(half, metadata)
    return draft.finish(
        metadata,
        parity,
        half,
        fp32_nodes=list(parts),
        weights_beyond_fp16=sorted(nodes_beyond_fp16(model)),
        widening=widening,
    )


def _search(
    model: onnx.ModelProto, reference: Reference, metadata: ModelMetadata, path: Path
) -> tuple[Attempt, list[dict[str, Any]]]:
    """Return the attempt that passed, and the report of all."""
    images = reference.images.of_kind(metadata.input)

    def judge(half: onnx.ModelProto) -> Parity:
        run = GraphRun(half)
        return reference.judge(run, "fp16", run.features(images), kind=metadata.input)

    widening = []
    for attempt in attempts(Network(model, images), judge):
        widening.append(attempt.to_dict())
        if attempt.parity.passed:
            return attempt, widening
    errors = ", ".join(f"{step['step']}: {step['max_value_error']:.3g}" for step in widening)
    raise ParityError(
        f"{path}: not kept, {attempt.parity.difference}, with all but the first layers in float32 "
        f"({errors}); use the fp32 file, or --atol to allow more."
    )
