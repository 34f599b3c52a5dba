"""A lane: the resources of one inference while others run beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from numclip_runtime.backends.tensorrt.engine import STAGES, LoadedPlan
from numclip_runtime.cuda.api import CudaError
from numclip_runtime.cuda.resources import DeviceBuffer, Graph, PinnedBuffer, Stream
from numclip_runtime.errors import GpuError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import FloatArray, InputArray

# Each holds an execution context with scratch memory for the largest batch. A folder needs two
# sizes, full batches and the rest; so do single images beside batches.
MOST_GRAPHS = 2
_ALIGNMENT = 256  # bytes, of addresses for TensorRT


class Lane:
    """A stream with its buffers, execution contexts and CUDA graphs; for one thread at a time.

    It owns its resources, and frees them on `close`. The buffers are made once, for the largest
    batch: pinned memory and memory on the GPU for the images, and both once more for the outputs.
    These lie side by side, so that one copy brings both.

    Make it inside `with cuda.current()`, with the plan's lock held.

    Args:
        loaded: The plan to run; not owned.

    Raises:
        GpuError: if memory runs out.
    """

    def __init__(self, loaded: LoadedPlan) -> None:
        self._loaded = loaded
        self._graphs: dict[int, Graph] = {}  # by batch size
        self._executions: list[Any] = []  # the first is for any size, each other for one graph
        self._opened = ExitStack()  # closes in reverse: contexts, then buffers, then the stream
        most, cuda = loaded.max_batch, loaded.cuda
        split = -(-4 * most // _ALIGNMENT) * _ALIGNMENT  # bytes before bin_probs
        self._bytes_before, self._bytes_each = split, 4 * loaded.num_bins
        try:
            self._stream = Stream(cuda)
            self._opened.callback(self._stream.close)
            self._host, self._device = self._memory((most, *loaded.sample), loaded.input_type)
            output, device = self._memory((split + most * self._bytes_each,), np.dtype(np.uint8))
            self._host_output, self._device_output = output, device
            self._values: FloatArray = output.array[: 4 * most].view(np.float32)
            self._bin_probs: FloatArray = output.array[split:].view(np.float32).reshape(most, -1)
            self._addresses = {
                INPUT_NAME: self._device.handle,
                VALUES_NAME: device.handle,
                BIN_PROBS_NAME: device.handle + split,
            }
            self._executions.append(loaded.new_execution(self._addresses))
            self._opened.callback(self._forget_executions)
        except BaseException:
            self.close()
            raise

    def run(self, images: InputArray | Sequence[InputArray]) -> tuple[FloatArray, FloatArray]:
        """Run one batch, and copy its results from the pinned buffers.

        Args:
            images: (B, ...) of the engine's type, or a list of B; at most `max_batch`. If B is less
                than `min_batch`, zeros are added.

        Returns:
            values (B,) and bin_probs (B, K) float32, the caller's own.

        Raises:
            GpuError: if TensorRT or the driver fails.
        """
        count, host = len(images), self._host.array
        size = max(count, self._loaded.min_batch)
        with self._loaded.cuda.current():
            if isinstance(images, np.ndarray):
                host[:count] = images
            else:
                np.stack(images, out=host[:count])
            if size != count:
                host[count:size] = 0
            try:
                graph = self._graphs.get(size)
                if graph is None:
                    self._run_plainly(size)
                else:
                    self._stream.launch(graph)
                    self._stream.synchronize()
            except BaseException:  # pending work must not overlap the next batch
                with suppress(CudaError):
                    self._stream.synchronize()
                raise
            return self._values[:count].copy(), self._bin_probs[:count].copy()

    def close(self) -> None:
        """Free everything; no run may be under way. Idempotent."""
        self._opened.close()

    def _memory(
        self, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[PinnedBuffer, DeviceBuffer]:
        host = PinnedBuffer(self._loaded.cuda, shape, dtype)
        self._opened.callback(host.close)
        device = DeviceBuffer(self._loaded.cuda, host.array.nbytes)
        self._opened.callback(device.close)
        return host, device

    def _run_plainly(self, size: int) -> None:
        """Run without a graph; make one if the size will come again."""
        loaded, execution = self._loaded, self._executions[0]
        with loaded.lock:
            # A size that comes a second time will come again. The second run is an ordinary one in
            # the context of the graph: TensorRT allocates and compiles in the first run of each.
            again = loaded.graphs and size in loaded.sizes and len(self._graphs) < MOST_GRAPHS
            if again:
                try:
                    execution = loaded.new_execution(self._addresses, for_graph=True)
                except GpuError as error:
                    again = loaded.without_graphs(error)
            if not execution.set_input_shape(INPUT_NAME, (size, *loaded.sample)):
                raise loaded.failed(f"refused a batch of {size}")
            self._enqueue(execution, size)
        self._stream.synchronize()
        loaded.sizes.add(size)
        if again:
            with loaded.lock:
                try:
                    graph = self._stream.capture(lambda: self._enqueue(execution, size))
                except GpuError as error:
                    loaded.without_graphs(error)
                    return
            self._graphs[size] = graph
            self._executions.append(execution)  # its state belongs to the graph

    def _enqueue(self, execution: Any, size: int) -> None:
        stream, mark = self._stream, self._loaded.mark or _no_mark
        mark(stream, "start")
        stream.upload(self._host.array[:size], self._device)
        mark(stream, STAGES[0])
        if not execution.execute_async_v3(stream.handle):
            raise self._loaded.failed(f"could not run a batch of {size}")
        mark(stream, STAGES[1])
        used = self._bytes_before + size * self._bytes_each
        stream.download(self._device_output, self._host_output.array[:used])
        mark(stream, STAGES[2])

    def _forget_executions(self) -> None:
        with self._loaded.cuda.current():
            for graph in self._graphs.values():
                graph.close()
            self._graphs.clear()
            self._executions.clear()


def _no_mark(stream: Stream, stage: str) -> None:
    pass
