"""Options that have no use together: refused at once, not ignored, and before anything slow."""

from __future__ import annotations

from typing import Any

import click

from numclip_export.options import Goal
from numclip_runtime import UsageError

# Parameter -> the option as people write it.
FROM_CHECKPOINT = {
    "opset": "--opset",
    "atol": "--atol",
    "verify": "--no-verify",
    "verify_data": "--verify-data",
    "precision": "--precision (--fp16, --int8)",
    "input": "--input",
    "calib_data": "--calib-data",
    "calib_cache": "--calib-cache",
}
OF_ENGINE = {
    "min_batch": "--min-batch",
    "opt_batch": "--opt-batch",
    "workspace_mib": "--workspace-mib",
    "timing_cache": "--timing-cache",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "compute_capabilities": "--compute-capability",
    "tf32": "--tf32",
}


def given_among(options: dict[str, str]) -> list[str]:
    """Return which of these the running command was given, as people write them."""
    source, typed = click.get_current_context().get_parameter_source, click.core.ParameterSource
    return [shown for name, shown in options.items() if source(name) == typed.COMMANDLINE]


def refuse_with_onnx(given: dict[str, Any]) -> None:
    """Refuse options of an export where an engine is built from an ONNX file.

    Raises:
        UsageError: naming the first.
    """
    if given["card"]:
        raise UsageError("--card needs --ckpt: an ONNX file does not say how it was proved.")
    for shown in given_among(FROM_CHECKPOINT):
        raise UsageError(f"{shown} is for --ckpt; with --onnx the file itself decides.")


def refuse_without_use(given: dict[str, Any], goal: Goal) -> None:
    """Refuse options of an export that would change nothing.

    Args:
        given: The command's options.
        goal: What they come to on this machine.

    Raises:
        UsageError: naming the first, and the way out.
    """
    precision = given["precision"]
    if given["verify_data"] is not None and not given["verify"]:
        raise UsageError("--verify-data has no use with --no-verify; leave one of them out.")
    if precision != "int8":
        for shown in given_among(
            {key: FROM_CHECKPOINT[key] for key in ("calib_data", "calib_cache")}
        ):
            raise UsageError(f"{shown} is for --int8; leave it out, or add --int8.")
    if given["input"] == "uint8" and precision == "fp32":
        raise UsageError("--input uint8 is for fp16 and int8; the fp32 file takes float32 planes.")
    if goal.never_builds:
        for shown in given_among(OF_ENGINE):
            raise UsageError(
                f"{shown} is for engines, and none is built; leave it out, or choose --target "
                "tensorrt or tensorrt-rtx."
            )
