"""Part e: whether TensorRT-RTX builds for this GPU and runs here; else the sentence for users."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench.gpu.checks import (
    Check,
    CheckSkippedError,
    Settings,
    expect,
    loaded_packages,
    tried,
)
from benchmarks.bench.gpu.proof_models import CHECKPOINT, PROOF_FILES, photos_of
from benchmarks.bench.machine.environment import REPOSITORY
from numclip_runtime import load
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.errors import NumclipError

_COMMAND_S = 120.0
_PLANS = ("fp16", "int8")


def check_plans(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield the checks; `settings` are those of `Settings`."""
    given = Settings(**settings)
    yield tried("a plan for this GPU's compute capability", partial(_build_here, given))
    for precision in _PLANS:
        yield tried(f"{precision}: plan of its own choice", partial(_build, given, precision))
        yield tried(f"{precision}: numclip-run", partial(_run, given, precision))
        yield tried(f"{precision}: parity", partial(_parity, given, precision))
    yield tried("timeline.py", partial(_timeline, given))
    yield tried("a plan of TensorRT", partial(_tensorrt, given))
    yield loaded_packages()


def _plan(settings: Settings, precision: str) -> Path:
    return Path(settings.work) / Path(PROOF_FILES[precision]).with_suffix(".plan").name


def _export(settings: Settings, precision: str, output: Path, *flags: str) -> tuple[int, str]:
    source = str(Path(settings.models) / PROOF_FILES[precision])
    return _call("-m", "numclip_export", "--onnx", source, "-o", str(output), *flags)


def _call(*arguments: str) -> tuple[int, str]:
    """Return exit code and words of a command; a crash, or more than a sentence, is a failure."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_S)
    expect(done.returncode in (0, 1, 2), f"exit code {done.returncode}: {done.stderr[-500:]}")
    expect("Traceback" not in done.stderr, f"a traceback: {done.stderr[-500:]}")
    return done.returncode, (done.stderr if done.returncode else done.stdout).strip()[-500:]


def _build_here(settings: Settings) -> dict[str, Any]:
    """Ask for a plan of exactly this GPU: built, or refused in a sentence."""
    driver = probe_cuda(settings.library)
    capability = driver.devices[0].compute_capability
    output = Path(settings.work) / "here.plan"
    flags = ("--target", "tensorrt-rtx", "--compute-capability", str(capability))
    code, said = _export(settings, "fp16", output, *flags)
    expect(
        (code == 0) == output.exists(), f"exit code {code}, and the plan is there or not: {said}"
    )
    return {"compute_capability": capability, "built": code == 0, "said": said}


def _build(settings: Settings, precision: str) -> dict[str, Any]:
    plan = _plan(settings, precision)
    code, said = _export(settings, precision, plan, "--target", "tensorrt-rtx")
    expect(code == 0, f"not built: {said}")
    return {"bytes": plan.stat().st_size}


def _need(settings: Settings, precision: str) -> Path:
    plan = _plan(settings, precision)
    if not plan.exists():
        raise CheckSkippedError("its plan was not built")
    return plan


def _run(settings: Settings, precision: str) -> dict[str, Any]:
    """Run the plan as a user does: records, or one sentence."""
    plan = _need(settings, precision)
    photo = photos_of(Path(settings.models))[0]
    code, said = _call("-m", "numclip_runtime", str(plan), photo, "--require-gpu")
    if code:
        expect(said.count("\n") == 0, f"more than a sentence: {said}")
    return {"runs": code == 0, "said": said}


def _parity(settings: Settings, precision: Any) -> dict[str, Any]:
    """Judge the plan against the checkpoint by the export's budget, where it runs."""
    plan = _need(settings, precision)
    try:
        predictor = load(plan)
    except NumclipError as error:
        raise CheckSkippedError(f"it does not run here: {error}") from None
    from numclip.checkpoint import load_checkpoint
    from numclip_export.images import verify_images
    from numclip_export.parity import Reference

    with predictor:
        checkpoint = load_checkpoint(Path(settings.models) / CHECKPOINT)
        images = verify_images(checkpoint, Path(settings.models) / "photos")
        kind = predictor.metadata.input
        judged = Reference(checkpoint, images).judge(predictor.backend.run, precision, kind=kind)
    expect(judged.passed, judged.difference)
    return {
        "max_value_error": judged.max_value_error,
        "mean_value_error": judged.mean_value_error,
        "value_tolerance": judged.value_tolerance,
    }


def _timeline(settings: Settings) -> dict[str, Any]:
    """Draw the plan's lanes as a user does: a picture, or one sentence."""
    plan = _need(settings, "fp16")
    script = str(REPOSITORY / "benchmarks" / "timeline.py")
    picture = Path(settings.out) / "gpu-plan-timeline.svg"
    code, said = _call(script, str(plan), "-o", str(picture))
    expect((code == 0) == picture.exists(), f"exit code {code}, and the picture: {said}")
    return {"drawn": code == 0, "said": said}


def _tensorrt(settings: Settings) -> dict[str, Any]:
    """Ask for a plan of TensorRT itself: built, or the sentence that names its package."""
    output = Path(settings.work) / "tensorrt.plan"
    code, said = _export(settings, "fp16", output, "--target", "tensorrt")
    expect(
        (code == 0) == output.exists(), f"exit code {code}, and the plan is there or not: {said}"
    )
    return {"built": code == 0, "said": said}
