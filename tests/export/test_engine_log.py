"""What TensorRT says, as one sentence; the messages are TensorRT-RTX's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from numclip_export.engine.bindings import Binding
from numclip_export.engine.build import ADVICE, _start
from numclip_runtime import UsageError
from numclip_runtime.backends.tensorrt.module import reason_of

MEMORY = (
    "[myelinResourceManager.cpp::virtual void* nvinfer1::rt::MyelinHostBuffer::allocate(const "
    "string&, cudaStream_t)::206] Error Code 2: OutOfMemory (Requested size was 345025919 bytes.)"
)
BAD_ALLOC = "Unexpected exception std::bad_alloc"
GEMM = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: "
    "check_turing_op_compatibility] Cannot compile operation 'a' for Turing (SM75): FP32 GEMM is "
    "not supported. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
)
ECHO_14 = (
    "[checkMacros.cpp::catchCudaError::229] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:229)"
)
ECHO_17 = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient "
    "for CUDA runtime version))"
)


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([], "TensorRT gave no reason"),
        (["no tactic.\n  Try\nlater. "], "no tactic. Try later"),
        (["a", "b", "a"], "a; b"),
        (
            [MEMORY],
            "Error Code 2: OutOfMemory (Requested size was 345025919 bytes.); memory ran out: free "
            "some, or lower --max-batch or --workspace-mib",
        ),
        (
            [BAD_ALLOC],
            "Unexpected exception std::bad_alloc; memory ran out: free some, or lower --max-batch "
            "or --workspace-mib",
        ),
        (
            [GEMM, ECHO_14, ECHO_17],
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin (Cannot compile operation 'a' "
            "for Turing (SM75): FP32 GEMM is not supported); compute capability 75 has no FP32 "
            "matrix products: build from an fp16 model, with the onnx package installed, or leave "
            "75 out of --compute-capability",
        ),
        (
            [ECHO_17],
            "Error Code 1: Cuda Runtime ( (cudaError 35: CUDA driver version is insufficient for "
            "CUDA runtime version)); update the NVIDIA driver, or install a TensorRT for the CUDA "
            "version that it runs",
        ),
    ],
)
def test_reason(errors: list[str], reason: str) -> None:
    assert reason_of(errors, ADVICE) == reason


def test_builder_that_does_not_start() -> None:
    def builder(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    binding = Binding("tensorrt", SimpleNamespace(Builder=builder), "11.4.0", 86)
    with pytest.raises(UsageError, match=r"tensorrt 11\.4\.0 cannot start \(.*returned nullptr\)"):
        _start(binding, None, [])
    with pytest.raises(UsageError, match=r"cannot start \(.*update the NVIDIA driver"):
        _start(binding, None, [ECHO_17])
