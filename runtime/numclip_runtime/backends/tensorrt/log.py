"""Collect what TensorRT says, and turn it into one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def collecting_logger(trt: Any, errors: list[str]) -> Any:
    """Return a TensorRT logger that appends error messages to a list and drops the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                errors.append(message)

    return Logger()


def reason_of(errors: list[str], advice: Mapping[str, str] | None = None) -> str:
    """Return TensorRT's errors as part of a sentence.

    Args:
        errors: What the logger collected.
        advice: What TensorRT says -> what to do about it; the first that occurs is appended.
    """
    if not errors:
        return "TensorRT gave no reason"
    telling = [error for error in errors if not _is_echo(error)] or errors
    text = "; ".join(dict.fromkeys(map(_short, telling)))
    said = " ".join(telling)
    hint = next((hint for sign, hint in (advice or {}).items() if sign in said), None)
    return f"{text}; {hint}" if hint else text


def _is_echo(message: str) -> bool:
    """Tell whether it is the CUDA error that follows every other one where no driver is."""
    return "catchCudaError" in message and "out of memory" not in message


def _short(message: str) -> str:
    """Leave out where in TensorRT's own source a message comes from."""
    message = re.sub(r"\[\w+\.(cpp|h):[^]]*\] ?|[.\s]*\bIn \S+ at /\S+:\d+", "", message)
    return " ".join(message.split()).rstrip(". ")
