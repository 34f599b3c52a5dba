"""What an export is for: ONNX files alone, a CPU, or an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from numclip_export.engine.bindings import NoGpuError, load_binding
from numclip_export.engine.build_options import EngineOptions
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.metadata import Precision

Target = Literal["auto", "onnx", "cpu", "tensorrt", "tensorrt-rtx"]
ENGINE_TARGETS: tuple[Target, ...] = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Goal:
    """What was decided, and why."""

    target: Target  # never "auto"
    note: str  # for people: what is built, what is left out
    never_builds: bool = False  # no engine is built with these options on any machine

    @property
    def builds(self) -> bool:
        """Tell whether an engine is built."""
        return self.target in ENGINE_TARGETS


def resolve_target(target: Target, precision: Precision, options: EngineOptions) -> Goal:
    """Decide what `auto` means on this machine, and refuse what makes no sense.

    Args:
        target: What was asked for.
        precision: Of the file that an engine would be built from.
        options: Of the engine.

    Raises:
        UsageError: if the target cannot use the precision, or the builder cannot do what the
            options ask for.
        MissingDependencyError: if the builder that was asked for is not installed.
    """
    if target == "cpu":
        if precision == "fp16":
            raise UsageError(
                "fp16 is for GPUs, a CPU computes it more slowly than fp32; use --int8, or leave "
                "--fp16 out."
            )
        return Goal("cpu", "target: onnxruntime on a CPU", never_builds=True)
    if target == "onnx":
        return Goal("onnx", "target: onnx", never_builds=True)
    if target != "auto":
        binding = load_binding(replace(options, target=target))
        return Goal(target, f"target: {target} {binding.version}")
    if precision == "fp32":
        note = "target: ONNX; no engine for fp32 unless --target names a builder"
        return Goal("onnx", note, never_builds=True)
    try:
        binding = load_binding(options)
    except MissingDependencyError as error:
        form: Target = "cpu" if precision == "int8" else "onnx"
        return Goal(form, f"target: {form}; no engine was built here: {error}")
    except NoGpuError as error:
        return Goal("onnx", f"target: ONNX; no engine was built here: {error}")
    return Goal(binding.builder, f"target: {binding.builder} {binding.version}, found here")
