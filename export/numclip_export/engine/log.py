"""Collect what TensorRT says, and turn it into one sentence."""

from __future__ import annotations

import re
from typing import Any

OUT_OF_MEMORY = "memory ran out: free some, or lower --max-batch or --workspace-mib"
# What TensorRT says -> what to do about it
ADVICE = {
    "FP32 GEMM is not supported": (
        "compute capability 75 has no FP32 matrix products: build from an fp16 model, with the "
        "onnx package installed, or leave 75 out of --compute-capability"
    ),
    "workspace": "give more --workspace-mib, or leave it out",
    "OutOfMemory": OUT_OF_MEMORY,
    "out of memory": OUT_OF_MEMORY,
    "bad_alloc": OUT_OF_MEMORY,
    "driver version is insufficient": (
        "update the NVIDIA driver, or install a TensorRT for the CUDA version that it runs"
    ),
}


def collecting_logger(trt: Any, errors: list[str]) -> Any:
    """Return a TensorRT logger that appends error messages to a list and drops the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                errors.append(message)

    return Logger()


def reason_of(errors: list[str]) -> str:
    """Return TensorRT's errors as part of a sentence, with advice where there is any."""
    if not errors:
        return "TensorRT gave no reason"
    telling = [error for error in errors if not _is_echo(error)] or errors
    text = "; ".join(dict.fromkeys(map(_short, telling)))
    advice = next((advice for sign, advice in ADVICE.items() if sign in " ".join(telling)), None)
    return f"{text}; {advice}" if advice else text


def _is_echo(message: str) -> bool:
    """Tell whether it is the CUDA error that follows every other one where no driver is."""
    return "catchCudaError" in message and "out of memory" not in message


def _short(message: str) -> str:
    """Leave out where in TensorRT's own source a message comes from."""
    message = re.sub(r"\[\w+\.(cpp|h):[^]]*\] ?|[.\s]*\bIn \S+ at /\S+:\d+", "", message)
    return " ".join(message.split()).rstrip(". ")
