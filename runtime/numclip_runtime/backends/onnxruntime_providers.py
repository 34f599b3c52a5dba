"""Which execution provider of onnxruntime is asked for, and why it is not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from numclip_runtime.cuda.probe import CudaDriver

CPU_PROVIDER = "CPUExecutionProvider"
GPU_PROVIDERS: dict[str | None, str] = {
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-rtx": "NvTensorRTRTXExecutionProvider",
}
# By default CUDA rounds float32 factors to 10 bits (TF32), which exp(logit_scale) of about 100 in
# the head amplifies; engines are built without it for the same reason.
OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


def why_not(provider: str, available: Sequence[str], driver: CudaDriver) -> str | None:
    """Return why a GPU's provider cannot be asked for; None if it can.

    Args:
        provider: Its name in onnxruntime.
        available: What onnxruntime was built with. It says nothing about this machine: a build
            for GPUs lists CUDA where no driver is.
        driver: What `probe_cuda` says.
    """
    if driver.problem is not None:
        return driver.problem
    if provider in available:
        return None
    hint = (
        "it is a plug-in, which numclip does not load; run a plan of --target tensorrt-rtx"
        if provider == GPU_PROVIDERS["onnxruntime-rtx"]
        else "put onnxruntime-gpu in its place: pip uninstall onnxruntime, then pip install "
        "'numclip[gpu]'"
    )
    return f"this onnxruntime was built without {provider}; {hint}"


def with_fallbacks(provider: str | None) -> list[Any]:
    """Return what a session asks for: the provider, and what takes the nodes it cannot run."""
    names = dict.fromkeys([provider, "CUDAExecutionProvider"] if provider else [])
    return [(name, OPTIONS.get(name, {})) for name in names if name] + [CPU_PROVIDER]


def load_cuda_packages(ort: Any) -> None:
    """Load CUDA libraries that pip installed; where none are, the system's are found later."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            preload()
