"""Compare an engine with the checkpoint, where a GPU can run it."""

from __future__ import annotations

from pathlib import Path

from numclip_export.artefact import difference
from numclip_export.parity import Gate, Parity, ParityError
from numclip_runtime import NumclipError, load


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
        plan.unlink()
        plan.with_name(f"{plan.name}.sha256").unlink(missing_ok=True)
        raise ParityError(
            f"{plan}: not kept, {difference(parity)}, although its ONNX file is in parity; this "
            "TensorRT computes it differently."
        )
    return parity, "compared on this machine's GPU"
