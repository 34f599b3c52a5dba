"""Build an engine, and compare it with the checkpoint where a GPU can run it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from numclip_export.engine.build import BuiltEngine, engine_from_onnx
from numclip_export.exported_file import ExportedFile
from numclip_export.graph.onnx_model import save_with_metadata
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.int8.acceptance import NotWorthItError, Speed, measure_speed
from numclip_export.options import ResolvedTarget
from numclip_export.parity import Parity, ParityError, Reference
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_runtime import ModelMetadata, NumclipError, load
from numclip_runtime.model_files.pin import path_beside
from numclip_runtime.preprocess import InputArray


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine on disk, and how it was verified."""

    built: BuiltEngine
    built_from: str  # name of the ONNX file
    parity: Parity | None  # None: not compared
    verification: str  # for people: how it was compared, or why not

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        built = self.built
        return {
            "file": built.plan.name,
            "bytes": built.size,
            "sha256": built.sha256,
            "built_from": self.built_from,
            **asdict(built.engine),
            "parity": self.parity and self.parity.to_dict(),
            # the report may be published, so it names no folder of this machine
            "verification": self.verification.replace(str(built.plan), built.plan.name),
            "notes": list(built.notes),
            "seconds": round(built.seconds, 2),
        }


def verified_engine(
    source: ExportedFile,
    fp32_onnx: Path,
    target: ResolvedTarget,
    reference: Reference | None,
    plan: Path | None = None,
) -> VerifiedEngine:
    """Build an engine beside its ONNX file, and keep it only if it is not refuted.

    Args:
        source: ONNX file to build from.
        fp32_onnx: float32 file of the same model.
        target: A target that builds engines.
        reference: None skips verification.
        plan: Where it goes; None: beside the source, under its name.

    Raises:
        ParityError: if it differs from the checkpoint, or an INT8 engine is no faster than FP16.
        NumclipError: see `engine_from_onnx`.
    """
    plan, metadata = plan or source.path.with_suffix(".plan"), source.metadata
    built = engine_from_onnx(
        source.path, plan, target.engine, binding=target.binding, metadata=metadata
    )
    parity, verification = engine_parity(plan, reference)
    if parity is not None and reference is not None and metadata.precision == "int8":
        images = reference.images.of_kind(metadata.input)
        speed = int8_engine_speed(plan, metadata, fp32_onnx, target, images)
        verification += f"; {speed.int8_ms:.2f} ms, {speed.baseline} {speed.baseline_ms:.2f}"
    return VerifiedEngine(built, source.path.name, parity, verification)


def engine_parity(plan: Path, reference: Reference | None) -> tuple[Parity | None, str]:
    """Compare an engine with the checkpoint.

    Args:
        plan: Engine that was just built.
        reference: None skips verification.

    Returns:
        The parity, or None; and how it was measured, or why not.

    Raises:
        ParityError: if it differs from the checkpoint; the engine is deleted, its ONNX file stays.
    """
    if reference is None:
        return None, "not verified, as asked"
    try:
        predictor = load(plan)
    except NumclipError as error:  # no GPU, or another than the engine is for
        return None, f"not run here: {error}"
    with predictor:
        metadata = predictor.metadata
        parity = reference.judge(predictor.backend.run, metadata.precision, kind=metadata.input)
    if not parity.passed:
        _delete(plan)
        raise ParityError(
            f"{plan}: not kept, {parity.difference}, although its ONNX file is in parity; this "
            "TensorRT computes it differently."
        )
    return parity, "compared on this machine's GPU"


def int8_engine_speed(
    plan: Path,
    metadata: ModelMetadata,
    fp32_onnx: Path,
    target: ResolvedTarget,
    images: InputArray,
) -> Speed:
    """Time an INT8 engine against the FP16 engine of the same model, which is built for it.

    Args:
        plan: INT8 engine that runs here.
        metadata: Of its ONNX file.
        fp32_onnx: Verified float32 file, from which the FP16 engine is made.
        target: Of the INT8 engine.
        images: (N, ...) in the form of the INT8 engine's input.

    Raises:
        NotWorthItError: if INT8 is no faster; the engine is deleted, its ONNX file stays.
    """
    metadata = replace(metadata, precision="fp16")
    model = onnx.load(fp32_onnx)
    if metadata.input == "uint8":
        model = with_uint8_input(model, metadata.preprocessing)
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "x.fp16.onnx"
        save_with_metadata(fp16_from_fp32(model, head_nodes(model)), metadata, half)
        fp16_plan = half.with_suffix(".plan")
        engine_from_onnx(half, fp16_plan, target.engine, binding=target.binding, metadata=metadata)
        return faster_or_deleted(fp16_plan, plan, images)


def faster_or_deleted(baseline: Path, plan: Path, images: InputArray) -> Speed:
    """Time an INT8 engine against another; see `int8_engine_speed`."""
    speed = measure_speed(baseline, plan, lambda _: images)
    if not speed.passed:
        _delete(plan)
        raise NotWorthItError(f"{plan}: not kept, {speed.refusal()}.")
    return speed


def _delete(plan: Path) -> None:
    path_beside(plan).unlink(missing_ok=True)
    plan.unlink()
