"""Resources of a context: memory, streams that order work, events that time it, graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from numclip_runtime.cuda.api import HANDLE, POINTER_ON_DEVICE, CudaError
from numclip_runtime.cuda.context import CudaContext, Resource, make

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


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


class Stream(Resource):
    """A queue of work: copies and kernels run one after the other, asynchronously to Python."""

    def __init__(self, context: CudaContext) -> None:
        handle = make(context, "cuStreamCreate", HANDLE, _NON_BLOCKING)
        super().__init__(context, handle, "cuStreamDestroy_v2")

    def upload(self, source: npt.NDArray[Any], target: DeviceBuffer) -> None:
        """Enqueue a copy to the GPU; the array must live, unchanged, until it has run."""
        _check(source, target)
        self.context.api.call(
            "cuMemcpyHtoDAsync_v2", target.handle, source.ctypes.data, source.nbytes, self.handle
        )

    def download(self, source: DeviceBuffer, target: npt.NDArray[Any]) -> None:
        """Enqueue a copy of the first bytes from the GPU; read the array after `synchronize`."""
        _check(target, source)
        assert target.flags.writeable
        self.context.api.call(
            "cuMemcpyDtoHAsync_v2", target.ctypes.data, source.handle, target.nbytes, self.handle
        )

    def synchronize(self) -> None:
        """Wait until all work is done.

        Raises:
            CudaError: if the work failed, such as by an illegal address in a kernel.
        """
        self.context.api.call("cuStreamSynchronize", self.handle)

    def capture(self, work: Callable[[], object]) -> Graph:
        """Record the work that `work` enqueues on this stream, without running it.

        Raises:
            CudaError: if a part cannot be captured. The stream remains usable.
            Exception: of `work`.
        """
        api = self.context.api
        api.call("cuStreamBeginCapture_v2", self.handle, _THREAD_LOCAL)
        graph = HANDLE()
        try:
            work()
        except BaseException:
            # ends the capture in any case: a capturing stream cannot be used
            with suppress(CudaError):
                api.call("cuStreamEndCapture", self.handle, ctypes.byref(graph))
                api.call("cuGraphDestroy", graph)
            raise
        api.call("cuStreamEndCapture", self.handle, ctypes.byref(graph))
        try:
            return Graph(self.context, graph)
        finally:
            api.call("cuGraphDestroy", graph)

    def launch(self, graph: Graph) -> None:
        """Enqueue the captured work, with the addresses at the time of the capture."""
        self.context.api.call("cuGraphLaunch", graph.handle, self.handle)


class Graph(Resource):
    """Captured work, ready to be launched; made by `Stream.capture`."""

    def __init__(self, context: CudaContext, graph: Any) -> None:
        handle = make(context, "cuGraphInstantiateWithFlags", HANDLE, graph, 0)
        super().__init__(context, handle, "cuGraphExecDestroy")


class Event(Resource):
    """A point in a stream, with its time on the GPU's clock."""

    def __init__(self, context: CudaContext) -> None:
        super().__init__(context, make(context, "cuEventCreate", HANDLE, 0), "cuEventDestroy_v2")

    def record(self, stream: Stream) -> None:
        """Enqueue the event; it happens when all work before it is done."""
        self.context.api.call("cuEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the event has happened."""
        self.context.api.call("cuEventSynchronize", self.handle)

    def milliseconds_since(self, start: Event) -> float:
        """Return the time between two events that have happened, resolution about 0.5 us."""
        api = self.context.api
        elapsed: float = api.get("cuEventElapsedTime", ctypes.c_float, start.handle, self.handle)
        return elapsed


def _check(host: npt.NDArray[Any], device: DeviceBuffer) -> None:
    assert host.flags.c_contiguous
    assert host.nbytes <= device.nbytes, f"{host.nbytes} > {device.nbytes}"
