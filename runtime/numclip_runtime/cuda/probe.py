"""Ask the NVIDIA driver for its GPUs, before TensorRT is used.

Without a driver TensorRT returns None or crashes the process; the driver's own library reports in
one call whether it works, without a Python package.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class CudaDevice:
    """A GPU."""

    name: str  # "NVIDIA GeForce RTX 3090"
    compute_capability: int  # 86 means 8.6


@dataclass(frozen=True)
class CudaDriver:
    """The driver and its GPUs, or the reason why there is none."""

    devices: tuple[CudaDevice, ...] = ()  # those that CUDA_VISIBLE_DEVICES shows
    version: tuple[int, int] | None = None  # newest CUDA that the driver runs, such as (13, 0)
    problem: str | None = None  # None: at least one GPU can be used


def probe_cuda(library: str = LIBRARY) -> CudaDriver:
    """Return the CUDA driver's GPUs; if there is none, `problem` is the reason. Never raises.

    Args:
        library: File name or path of the driver's library.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return CudaDriver(problem=f"no NVIDIA driver, {library} cannot be loaded")
    try:
        _call(cuda, "cuInit", 0)
        version = _integer(cuda, "cuDriverGetVersion")
        devices = tuple(_device(cuda, index) for index in range(_integer(cuda, "cuDeviceGetCount")))
    except (RuntimeError, AttributeError) as error:
        return CudaDriver(problem=f"the NVIDIA driver does not work, {error}")
    numbers = (version // 1000, version % 1000 // 10)
    return CudaDriver(devices, numbers, None if devices else "the NVIDIA driver shows no GPU")


def _call(cuda: ctypes.CDLL, function: str, *args: object) -> None:
    if status := getattr(cuda, function)(*args):
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{function}: {(text.value or b'unknown error').decode()} ({status})")


def _integer(cuda: ctypes.CDLL, function: str, *args: object) -> int:
    value = ctypes.c_int()
    _call(cuda, function, ctypes.byref(value), *args)
    return value.value


def _device(cuda: ctypes.CDLL, index: int) -> CudaDevice:
    handle = _integer(cuda, "cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGetName", name, len(name), handle)
    major, minor = (
        _integer(cuda, "cuDeviceGetAttribute", attribute, handle) for attribute in (_MAJOR, _MINOR)
    )
    return CudaDevice(name.value.decode(), 10 * major + minor)
