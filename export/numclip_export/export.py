"""From a checkpoint to verified ONNX files and their report."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numclip.checkpoint import load_checkpoint, package_versions
from numclip_export.artefact import Artefact, write_fp16, write_fp32
from numclip_export.fold import FoldedModel
from numclip_export.onnx_model import DEFAULT_OPSET, FUSED_ATTENTION_OPSET, onnx_from_folded
from numclip_export.parity import DEFAULT_MAX_BATCH, Gate, Parity
from numclip_export.report import export_report, write_report
from numclip_export.verify_images import verify_images
from numclip_runtime.files import atomic_path, sha256
from numclip_runtime.metadata import Precision


@dataclass(frozen=True)
class Exported:
    """What an export left on disk."""

    artefacts: tuple[Artefact, ...]  # the float32 ONNX file first: the others are made from it
    report: Path
    details: dict[str, Any]  # the report's content

    @property
    def onnx(self) -> Path:
        """The float32 ONNX file."""
        return self.artefacts[0].path

    @property
    def parity(self) -> Parity | None:
        """How the last artefact, the one asked for, compares with the checkpoint."""
        return self.artefacts[-1].parity


def export(
    ckpt: Path,
    onnx_path: Path,
    *,
    precision: Precision = "fp32",
    opset: int = DEFAULT_OPSET,
    atol: float | None = None,
    verify_data: Path | None = None,
    verify: bool = True,
    max_batch: int = DEFAULT_MAX_BATCH,
) -> Exported:
    """Fold a checkpoint, write it as ONNX, run what was written, and keep it only if it agrees.

    Args:
        ckpt: Checkpoint of `numclip-train`.
        onnx_path: Where the float32 ONNX file goes. Beside x.onnx go x.fp16.onnx, if asked for,
            and x.report.json.
        precision: "fp16" writes a second file, whose image encoder computes in float16.
        opset: ONNX operator set.
        atol: Largest difference of a value allowed, label units; None: see `parity.BUDGETS`.
        verify_data: Images to compare on, see `verify_images`.
        verify: False writes without comparing, and says so in file and report.
        max_batch: Largest batch size compared.

    Raises:
        ModelError: if the checkpoint cannot be read.
        UsageError: if the output cannot be written or the verification data is unusable.
        ParityError: if a file differs from the checkpoint; nothing is left behind, nor replaced.
    """
    started = time.perf_counter()
    checkpoint = load_checkpoint(ckpt)
    gate = None
    if verify:
        images = verify_images(checkpoint, verify_data)
        gate = Gate(checkpoint, images, max_batch=max_batch, atol=atol)
    metadata = replace(
        checkpoint.metadata,
        checkpoint_sha256=sha256(ckpt),
        versions=package_versions("torch", "open_clip_torch", "onnx"),
    )
    half_path, report = (onnx_path.with_suffix(end) for end in (".fp16.onnx", ".report.json"))
    paths = [onnx_path, *([half_path] if precision == "fp16" else []), report]
    with ExitStack() as files:  # all appear, or none
        temporary = {path: files.enter_context(atomic_path(path)) for path in paths}
        graph = onnx_from_folded(
            FoldedModel(
                checkpoint.model,
                checkpoint.temperature,
                fused_attention=opset >= FUSED_ATTENTION_OPSET,
            ),
            checkpoint.preprocessing.crop,
            opset=opset,
        )
        artefacts = [write_fp32(graph, metadata, temporary[onnx_path], onnx_path, gate)]
        if precision == "fp16":
            metadata = replace(metadata, precision="fp16", source_sha256=artefacts[0].sha256)
            artefacts.append(write_fp16(graph, metadata, temporary[half_path], half_path, gate))
        seconds = time.perf_counter() - started
        details = export_report(checkpoint, ckpt, metadata, graph, artefacts, seconds)
        write_report(details, temporary[report])
    return Exported(tuple(artefacts), report, details)
