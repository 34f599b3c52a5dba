"""Functions of the CUDA driver API: exact signatures, and return codes as exceptions."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from numclip_runtime.cuda.probe import LIBRARY
from numclip_runtime.errors import GpuError

HANDLE = c_void_p  # CUcontext, CUstream, CUevent, CUgraph, CUgraphExec: pointers
POINTER_ON_DEVICE = c_uint64  # CUdeviceptr

# The names are the library's symbols. cuda.h maps some functions to a `_v2`, and
# cuGraphInstantiate to cuGraphInstantiateWithFlags; the symbols without it are older functions.
# All are there since CUDA 11.4. cuEventElapsedTime_v2 is not used: it came with CUDA 12.8, and
# JetPack 6 has 12.6.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(HANDLE), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (HANDLE,),
    "cuCtxPopCurrent_v2": (POINTER(HANDLE),),
    "cuMemAlloc_v2": (POINTER(POINTER_ON_DEVICE), c_size_t),
    "cuMemFree_v2": (POINTER_ON_DEVICE,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (POINTER_ON_DEVICE, c_void_p, c_size_t, HANDLE),
    "cuMemcpyDtoHAsync_v2": (c_void_p, POINTER_ON_DEVICE, c_size_t, HANDLE),
    "cuStreamCreate": (POINTER(HANDLE), c_uint),
    "cuStreamSynchronize": (HANDLE,),
    "cuStreamDestroy_v2": (HANDLE,),
    "cuStreamBeginCapture_v2": (HANDLE, c_int),
    "cuStreamEndCapture": (HANDLE, POINTER(HANDLE)),
    "cuGraphInstantiateWithFlags": (POINTER(HANDLE), HANDLE, c_uint64),
    "cuGraphLaunch": (HANDLE, HANDLE),
    "cuGraphExecDestroy": (HANDLE,),
    "cuGraphDestroy": (HANDLE,),
    "cuEventCreate": (POINTER(HANDLE), c_uint),
    "cuEventRecord": (HANDLE, HANDLE),
    "cuEventSynchronize": (HANDLE,),
    "cuEventElapsedTime": (POINTER(c_float), HANDLE, HANDLE),
    "cuEventDestroy_v2": (HANDLE,),
}

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
DEINITIALIZED = 4  # CUDA_ERROR_DEINITIALIZED: the driver has shut down and freed everything


class CudaError(GpuError):
    """The CUDA driver refused a call, or cannot be used."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # the driver's CUresult; None: no call was made


class CudaApi:
    """The driver's library, loaded and initialised.

    Args:
        library: File name or path.

    Raises:
        CudaError: if it cannot be loaded, lacks a function, or finds no GPU.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            cuda = ctypes.CDLL(library)
        except OSError:
            raise CudaError(f"no NVIDIA driver, {library} cannot be loaded.") from None
        self._functions = {}
        for name, types in SIGNATURES.items():
            try:
                function = getattr(cuda, name)
            except AttributeError:
                raise CudaError(
                    f"the NVIDIA driver ({library}) lacks {name}; update it to one for CUDA 11.4 "
                    "or later."
                ) from None
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        self.call("cuInit", 0)

    def call(self, function: str, *args: Any) -> None:
        """Call a function of the driver.

        Raises:
            CudaError: unless it returns 0, with the driver's own words for the code.
        """
        if status := self._functions[function](*args):
            name, text = (self._words(f"cuGetError{kind}", status) for kind in ("Name", "String"))
            advice = "; use smaller batches, or free memory" if status == OUT_OF_MEMORY else ""
            raise CudaError(f"CUDA: {function} failed: {text} ({name}, {status}){advice}.", status)

    def get(self, function: str, kind: Any, *args: Any) -> Any:
        """Call a function that writes its result to its first parameter; return the result.

        Args:
            function: Name of the function.
            kind: ctypes type of the result.
            args: The other parameters.
        """
        result = kind()
        self.call(function, ctypes.byref(result), *args)
        return result.value

    def _words(self, function: str, status: int) -> str:
        text = c_char_p()
        self._functions[function](status, ctypes.byref(text))  # leaves NULL for an unknown code
        return (text.value or b"unknown error").decode()
