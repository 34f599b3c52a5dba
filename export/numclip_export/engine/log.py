"""Collect what TensorRT says, and turn it into one sentence."""

from __future__ import annotations

import re
from typing import Any

# What TensorRT says -> what to do about it
ADVICE = {
    "FP32 GEMM is not supported": (
        "compute capability 75 has no FP32 matrix products: build from an fp16 model, with the "
        "onnx package installed, or leave 75 out of --compute-capability"
    ),
    "workspace": "give more --workspace-mib, or leave it out",
    "OutOfMemory": "memory ran out: free some, or lower --max-batch or --workspace-mib",
    "out of memory": "memory ran out: free some, or lower --max-batch or --workspace-mib",
    "bad_alloc": "memory ran out: free some, or lower --max-batch or --workspace-mib",
}
# Follows every other error where no driver is; says nothing about that error.
NOISE = "CUDA driver version is insufficient"


def collecting_logger(trt: Any, errors: list[str]) -> Any:
    """Return a TensorRT logger that appends error messages to a list and drops the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR and NOISE not in message:
                errors.append(message)

    return Logger()


def reason_of(errors: list[str]) -> str:
    """Return TensorRT's errors as part of a sentence, with advice where there is any."""
    if not errors:
        return "TensorRT gave no reason"
    text = "; ".join(dict.fromkeys(map(_short, errors)))
    advice = next((advice for sign, advice in ADVICE.items() if sign in " ".join(errors)), None)
    return f"{text}; {advice}" if advice else text


def _short(message: str) -> str:
    """Leave out where in TensorRT's own source a message comes from."""
    message = re.sub(r"\[\w+\.(cpp|h):[^]]*\] ?|\.?\s+In \S+ at /\S+:\d+", "", message)
    return " ".join(message.split()).rstrip(". ")
