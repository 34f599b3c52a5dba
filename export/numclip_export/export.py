"""From a checkpoint to a verified ONNX file and its report."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numclip.checkpoint import load_checkpoint, package_versions
from numclip_export.fold import FoldedModel, parameter_counts
from numclip_export.onnx_model import (
    DEFAULT_OPSET,
    FUSED_ATTENTION_OPSET,
    onnx_from_folded,
    operators,
    parameter_count,
    save_with_metadata,
)
from numclip_export.parity import Parity, ParityError, compare, verification_inputs
from numclip_runtime import load
from numclip_runtime.files import atomic_path, atomic_text, sha256

RELATIVE_TOLERANCE = 1e-5  # of the label range; float32 rounding stays an order below


@dataclass(frozen=True)
class Exported:
    """What an export left on disk."""

    onnx: Path
    report: Path
    parity: Parity
    details: dict[str, Any]  # the report's content


def export(
    ckpt: Path,
    onnx_path: Path,
    *,
    opset: int = DEFAULT_OPSET,
    atol: float | None = None,
    verify_data: Path | None = None,
) -> Exported:
    """Fold a checkpoint, write it as ONNX, run the file, and keep it only if it agrees.

    Args:
        ckpt: Checkpoint of `numclip-train`.
        onnx_path: Where the ONNX file goes; the report goes beside it as `.report.json`.
        opset: ONNX operator set.
        atol: Largest difference of a value allowed, label units; None: 1e-5 of the label range.
        verify_data: Images to compare on, see `verification_inputs`.

    Raises:
        ModelError: if the checkpoint cannot be read.
        UsageError: if the output cannot be written or the verification data is unusable.
        ParityError: if the ONNX file differs from the checkpoint; nothing is left behind.
    """
    started = time.perf_counter()
    checkpoint = load_checkpoint(ckpt)
    source, inputs = verification_inputs(checkpoint, verify_data)
    tolerance = RELATIVE_TOLERANCE * checkpoint.task.label_range if atol is None else atol
    ckpt_sha256 = sha256(ckpt)
    metadata = replace(
        checkpoint.metadata,
        checkpoint_sha256=ckpt_sha256,
        versions=package_versions("torch", "open_clip_torch", "onnx"),
    )
    with atomic_path(onnx_path) as temporary:
        model = onnx_from_folded(
            FoldedModel(
                checkpoint.model,
                checkpoint.temperature,
                fused_attention=opset >= FUSED_ATTENTION_OPSET,
            ),
            checkpoint.preprocessing.crop,
            opset=opset,
        )
        save_with_metadata(model, metadata, temporary)
        with load(temporary) as predictor:
            parity = compare(checkpoint, predictor, inputs, source, tolerance)
        if not parity.passed:
            raise ParityError(
                f"{onnx_path}: not kept, its values differ from {ckpt} by up to "
                f"{parity.max_value_error:.3g} (allowed {tolerance:.3g}) and its "
                f"probabilities by {parity.max_prob_error:.3g}; another --opset may help, "
                "--atol allows more."
            )
        reached = {
            "max_value_error": parity.max_value_error,
            "max_prob_error": parity.max_prob_error,
        }
        save_with_metadata(model, replace(metadata, parity=reached), temporary)
    details = {
        "checkpoint": {
            "file": ckpt.name,
            "bytes": ckpt.stat().st_size,
            "sha256": ckpt_sha256,
            "parameters": parameter_counts(checkpoint.model),
            "metrics": dict(checkpoint.metrics),
            "calibration": checkpoint.calibration and asdict(checkpoint.calibration),
        },
        "onnx": {
            "file": onnx_path.name,
            "bytes": onnx_path.stat().st_size,
            "sha256": sha256(onnx_path),
            "opset": opset,
            "precision": metadata.precision,
            "parameters": parameter_count(model),
            "operators": operators(model),
        },
        "parity": parity.to_dict(),
        "versions": dict(metadata.versions),
        "seconds": round(time.perf_counter() - started, 2),
    }
    report = onnx_path.with_suffix(".report.json")
    with atomic_text(report) as file:
        json.dump(details, file, indent=2, ensure_ascii=False)
        file.write("\n")
    return Exported(onnx_path, report, parity, details)
