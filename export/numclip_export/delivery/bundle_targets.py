"""The targets of a fleet bundle: `--targets cpu,onnx-fp16,tensorrt-rtx:86+120`.

    targets  = target { "," target | "," number }
    target   = form [ "-" precision ] [ ":" number { "+" number } ]
    form     = "cpu" | "onnx" | "tensorrt" | "tensorrt-rtx"
    number   = a compute capability: 86, 8.6 or sm86

A number after a comma continues the list of the target before it: tensorrt-rtx:86,120.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from numclip_export.engine.bindings import NoGpuError
from numclip_export.engine.build_options import EngineOptions
from numclip_export.options import ResolvedTarget, resolve_target
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.bundle import Missing

Form = Literal["cpu", "onnx", "tensorrt", "tensorrt-rtx"]
EXAMPLE = "cpu,onnx-fp16,tensorrt-rtx:86+120"

_NUMBER = r"(?:sm)?\d{1,2}(?:\.?\d)"
_NUMBERS = re.compile(rf"{_NUMBER}(?:\+{_NUMBER})*")
# The longest form first, and a precision at the end of the word
_WORD = re.compile(
    rf"({'|'.join(sorted(get_args(Form), key=len, reverse=True))})"
    rf"(?:-({'|'.join(get_args(Precision))}))?(?::(.*))?"
)


@dataclass(frozen=True)
class BundleTarget:
    """A target as it was asked for."""

    form: Form
    precision: Precision | None = None  # None: cpu: fp32 and int8; onnx: fp32; engines: fp16
    compute_capabilities: tuple[int, ...] = ()  # of a plan of TensorRT-RTX; (): its default

    @property
    def builds(self) -> bool:
        """Whether it is a plan."""
        return self.form.startswith("tensorrt")

    @property
    def needs(self) -> Precision:
        """The precision of its ONNX file; of "cpu", that of the file which is always made."""
        return self.precision or ("fp16" if self.builds else "fp32")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions of its ONNX files."""
        return ("fp32", "int8") if self.form == "cpu" and not self.precision else (self.needs,)

    def __str__(self) -> str:
        numbers = "+".join(map(str, self.compute_capabilities))
        return "-".join(filter(None, (self.form, self.precision))) + (numbers and f":{numbers}")


def parse_targets(text: str) -> tuple[BundleTarget, ...]:
    """Return the targets that a text names, each once.

    Raises:
        UsageError: naming the word that is none.
    """
    found: list[BundleTarget] = []
    for word in (word.strip().lower() for word in text.split(",")):
        if _NUMBERS.fullmatch(word):
            if not found or not found[-1].compute_capabilities:
                raise UsageError(
                    f"--targets {text}: {word} follows no list of compute capabilities; begin one "
                    f"with a colon: {EXAMPLE}."
                )
            longer = {*found[-1].compute_capabilities, *_numbers(word)}
            found[-1] = replace(found[-1], compute_capabilities=tuple(sorted(longer)))
        else:
            found.append(_target(word, text))
    return tuple(dict.fromkeys(found))


def _target(word: str, text: str) -> BundleTarget:
    match = _WORD.fullmatch(word)
    if match is None:
        raise UsageError(
            f"--targets {text}: {word!r} is no target; choose from {', '.join(get_args(Form))}, "
            f"each also with -fp32, -fp16 or -int8, such as {EXAMPLE}."
        )
    form, numbers = cast("Form", match[1]), match[3]
    if numbers is not None and form != "tensorrt-rtx":
        raise UsageError(
            f"--targets {text}: compute capabilities are for tensorrt-rtx alone"
            f"{'; TensorRT builds for the GPU of this machine' if form == 'tensorrt' else ''}."
        )
    if numbers is not None and _NUMBERS.fullmatch(numbers) is None:
        raise UsageError(
            f"--targets {text}: {numbers!r} is not a list of compute capabilities such as 86+120."
        )
    precision = cast("Precision | None", match[2])
    return BundleTarget(form, precision, _numbers(numbers or ""))


def _numbers(text: str) -> tuple[int, ...]:
    words = (word.removeprefix("sm").replace(".", "") for word in text.split("+") if word)
    return tuple(sorted(set(map(int, words))))


@dataclass(frozen=True)
class ResolvedTargets:
    """What can be made here, with the builders loaded, and what cannot."""

    targets: dict[BundleTarget, ResolvedTarget]
    missing: tuple[Missing, ...] = ()


def resolve_targets(
    targets: tuple[BundleTarget, ...], engine: EngineOptions, *, allow_missing: bool
) -> ResolvedTargets:
    """Find the builder of each plan, before the minutes of an export.

    Args:
        targets: See `parse_targets`.
        engine: Options of the plans.
        allow_missing: Leave out what cannot be built here, instead of refusing.

    Raises:
        UsageError: if the options do not fit a target, or the builder needs a GPU that is not here.
        MissingDependencyError: if a builder is not installed.
    """
    found: dict[BundleTarget, ResolvedTarget] = {}
    missing = []
    own = engine if not any(target.builds for target in targets) else EngineOptions()
    for target in targets:
        options = own
        if target.builds:
            options = replace(engine, compute_capabilities=target.compute_capabilities)
        try:
            found[target] = resolve_target(target.form, target.needs, options)
        except (MissingDependencyError, NoGpuError) as error:
            if not allow_missing:
                raise type(error)(
                    f"target {target}: {str(error).rstrip('.')}; or leave it out of the bundle "
                    "with --allow-missing."
                ) from None
            missing.append(Missing(str(target), str(error)))
    if not found:
        raise UsageError(f"no target can be built here: {missing[0].reason}")
    return ResolvedTargets(found, tuple(missing))
