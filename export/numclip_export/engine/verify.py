"""Compare an engine with the checkpoint, where a GPU can run it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from numclip_export.engine.build import engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_export.exported_file import difference
from numclip_export.graph.onnx_model import save_with_metadata
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.int8.acceptance import NotWorthItError, Speed, measure_speed
from numclip_export.parity import Gate, Parity, ParityError
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_runtime import NumclipError, load
from numclip_runtime.preprocess import InputArray


def engine_parity(plan: Path, gate: Gate | None) -> tuple[Parity | None, str]:
    """Run an engine on the images of the gate.

    Args:
        plan: Engine that was just built.
        gate: Reference; None: nothing is to be verified.

    Returns:
        What was measured, or None and the reason why nothing was.

    Raises:
        ParityError: if it differs from the checkpoint; the engine is deleted, its ONNX file stays.
    """
    if gate is None:
        return None, "not verified, as asked"
    try:
        predictor = load(plan)
    except NumclipError as error:  # no GPU, or another than the engine is for
        return None, f"not run here: {error}"
    with predictor:
        metadata = predictor.metadata
        parity = gate.judge(predictor.backend.run, metadata.precision, kind=metadata.input)
    if not parity.passed:
        _delete(plan)
        raise ParityError(
            f"{plan}: not kept, {difference(parity)}, although its ONNX file is in parity; this "
            "TensorRT computes it differently."
        )
    return parity, "compared on this machine's GPU"


def int8_engine_speed(
    plan: Path, fp32_onnx: Path, options: EngineOptions, images: InputArray
) -> Speed:
    """Time an INT8 engine against the FP16 engine of the same model, which is built for it.

    Args:
        plan: INT8 engine that runs here.
        fp32_onnx: Verified float32 file, from which the FP16 engine is made.
        options: Of the INT8 engine.
        images: (N, ...) as the INT8 engine takes them.

    Raises:
        NotWorthItError: if INT8 is no faster; the engine is deleted, its ONNX file stays.
    """
    with tempfile.TemporaryDirectory() as folder:
        with load(plan) as predictor:
            metadata = replace(predictor.metadata, precision="fp16")
        model = onnx.load(fp32_onnx)
        if metadata.input == "uint8":
            model = with_uint8_input(model, metadata.preprocessing)
        half = Path(folder) / "x.fp16.onnx"
        save_with_metadata(fp16_from_fp32(model, head_nodes(model)), metadata, half)
        built = engine_from_onnx(half, half.with_suffix(".plan"), options)
        return faster_or_deleted(built.plan, plan, images)


def faster_or_deleted(baseline: Path, plan: Path, images: InputArray) -> Speed:
    """Time an INT8 engine against another; see `int8_engine_speed`."""
    speed = measure_speed(baseline, plan, lambda _: images)
    try:
        speed.check(plan)
    except NotWorthItError:
        _delete(plan)
        raise
    return speed


def _delete(plan: Path) -> None:
    plan.with_name(f"{plan.name}.sha256").unlink(missing_ok=True)
    plan.unlink()
