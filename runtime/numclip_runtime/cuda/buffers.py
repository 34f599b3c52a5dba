"""Memory on the GPU, and pinned memory on the host that the GPU copies from and to."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from numclip_runtime.cuda.api import POINTER_ON_DEVICE
from numclip_runtime.cuda.context import CudaContext, Resource, make


class DeviceBuffer(Resource):
    """Memory on the GPU, uninitialised.

    Args:
        context: Where to allocate.
        nbytes: Size, at least 1 byte.

    Raises:
        CudaError: if memory runs out.
    """

    def __init__(self, context: CudaContext, nbytes: int) -> None:
        pointer = make(context, "cuMemAlloc_v2", POINTER_ON_DEVICE, nbytes)
        super().__init__(context, pointer, "cuMemFree_v2")
        self.nbytes = nbytes


class PinnedBuffer(Resource):
    """Host memory that cannot be paged out, so that copies from and to it run asynchronously.

    `array` is a view of it, not a copy. It and every view of it keep the memory when this object
    is collected without `close`; after `close` they must not be touched any more.

    Args:
        context: Where to allocate.
        shape: Of `array`.
        dtype: Of `array`.

    Raises:
        CudaError: if memory runs out.
    """

    def __init__(self, context: CudaContext, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = make(context, "cuMemHostAlloc", ctypes.c_void_p, nbytes, 0)
        memory = (ctypes.c_char * nbytes).from_address(pointer)
        super().__init__(context, pointer, "cuMemFreeHost", holder=memory)
        # numpy's views refer to `memory`, whose end frees it
        self.array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=memory)  # type: ignore[arg-type]
