"""What to do about what TensorRT says while it builds."""

from __future__ import annotations

from numclip_runtime.backends.tensorrt import module
from numclip_runtime.backends.tensorrt.module import collecting_logger

__all__ = ["collecting_logger", "reason_of"]

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


def reason_of(errors: list[str]) -> str:
    """Return TensorRT's errors as part of a sentence, with advice where there is any."""
    return module.reason_of(errors, ADVICE)
