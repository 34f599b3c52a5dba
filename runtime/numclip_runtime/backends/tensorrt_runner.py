"""A deserialised engine with its buffers, stream and CUDA graphs."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from numclip_runtime.backends.rtx import eager_execution
from numclip_runtime.backends.tensorrt_log import collecting_logger, reason_of
from numclip_runtime.cuda import CudaContext, DeviceBuffer, Graph, PinnedBuffer, Stream
from numclip_runtime.cuda_probe import LIBRARY
from numclip_runtime.errors import GpuError, ModelError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.plan import PlanInfo
from numclip_runtime.preprocess import FloatArray, InputArray

# Each holds an execution context with scratch memory for the largest batch. Two sizes are what a
# folder needs, whole batches and the rest; and single images beside batches are two as well.
MOST_GRAPHS = 2


@dataclass(frozen=True)
class Memory:
    """The memory of an input or output on both sides, for the largest batch."""

    host: PinnedBuffer
    device: DeviceBuffer


@dataclass(frozen=True)
class CapturedRun:
    """One inference at one batch size: copies and kernels, ready to be launched."""

    graph: Graph
    execution: Any  # captured with its state, so it runs nothing else


class TensorRTRunner:
    """Runs batches of an engine, one at a time; see `TensorRTBackend`, which checks the plan.

    It owns all that it makes on the GPU, and frees it on `close`. A lock lets several threads call
    it. Each buffer is made once, for the largest batch.

    Args:
        trt: The TensorRT package.
        plan: The serialised engine.
        info: What the plan says about itself.
        source: File named in errors.
        library: The driver's library.

    Raises:
        ModelError: if TensorRT refuses the plan, or it is not what its metadata say.
        CudaError: if the driver fails, such as when memory runs out.
    """

    def __init__(
        self, trt: Any, plan: bytes, info: PlanInfo, source: str, library: str = LIBRARY
    ) -> None:
        self._trt, self._info, self._source = trt, info, source
        self._lock = threading.Lock()
        self._errors: list[str] = []  # what TensorRT's logger said
        self._runs: dict[int, CapturedRun] = {}  # by batch size
        self._sizes: set[int] = set()  # batch sizes that ran
        self.graphs = True  # whether CUDA graphs are used; False once a capture has failed
        self.notes: list[str] = []
        facts, crop = info.engine, info.metadata.preprocessing.crop
        self._flags = facts.flags
        self.min_batch, self.max_batch = facts.min_batch, facts.max_batch
        pixels = info.metadata.input == "uint8"
        self._input_type = np.dtype(np.uint8 if pixels else np.float32)
        self._sample = (crop, crop, 3) if pixels else (3, crop, crop)  # one image
        num_bins = info.metadata.task.num_bins
        self._runtime: Any = None
        self._engine: Any = None
        self._execution: Any = None
        self._opened = ExitStack()  # closes in reverse: contexts, buffers, engine, CUDA
        try:
            cuda = self._cuda = CudaContext(library=library)
            self._opened.callback(cuda.close)
            self._opened.callback(self._forget_engine)
            with cuda.current():
                self._open(plan)
                self._check({VALUES_NAME: (), BIN_PROBS_NAME: (num_bins,)})
                stream = self._stream = Stream(cuda)
                self._opened.callback(stream.close)
                self._input = self._memory(self._sample, self._input_type)
                self._values = self._memory((), np.dtype(np.float32))
                self._bin_probs = self._memory((num_bins,), np.dtype(np.float32))
                self._execution = self._new_execution()
                self._opened.callback(self._forget_executions)
        except BaseException:
            self.close()
            raise

    def run(self, images: InputArray, values: FloatArray, bin_probs: FloatArray) -> None:
        """Run one batch, and copy its results out of the pinned buffers.

        Args:
            images: (B, ...) of the engine's type, B at most `max_batch`. Where it is less than
                `min_batch`, zeros are added.
            values: (B,) float32, written.
            bin_probs: (B, K) float32, written.

        Raises:
            GpuError: if TensorRT or the driver fails.
        """
        count = len(images)
        size = max(count, self.min_batch)
        with self._lock:
            if self._engine is None:  # buffers and context are gone as well
                raise GpuError(f"{self._source}: was closed.")
            with self._cuda.current():
                self._input.host.array[:count] = images
                self._input.host.array[count:size] = 0
                self._infer(size)
                values[:] = self._values.host.array[:count]
                bin_probs[:] = self._bin_probs.host.array[:count]

    def accepts(self, images: InputArray) -> bool:
        """Tell whether an array has the engine's type and shape, whatever its batch size."""
        return images.dtype == self._input_type and images.shape[1:] == self._sample

    def close(self) -> None:
        """Free all on the GPU; a second time is fine."""
        with self._lock:
            self._opened.close()

    def _open(self, plan: bytes) -> None:
        """Deserialise; `None` from TensorRT becomes an error with what its logger said."""
        trt = self._trt
        self._logger = collecting_logger(trt, self._errors)  # TensorRT keeps no reference to it
        try:
            runtime = self._runtime = trt.Runtime(self._logger)
        except Exception as error:  # "factory function returned nullptr", a TypeError
            reason = reason_of(self._errors or [str(error)])
            raise GpuError(f"{trt.__name__} {trt.__version__} cannot start ({reason}).") from None
        if "version-compatible" in self._flags:
            runtime.engine_host_code_allowed = True  # such a plan brings a runtime of its own
        engine = self._engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(
                f"{self._source}: {trt.__name__} {trt.__version__} cannot load this plan "
                f"({reason_of(self._errors)}); build it again from the ONNX file."
            )

    def _check(self, outputs: dict[str, tuple[int, ...]]) -> None:
        """Refuse an engine whose tensors are not those that its metadata promise."""
        trt, engine = self._trt, self._engine
        types = {trt.DataType.FLOAT: "float32", trt.DataType.UINT8: "uint8"}
        found, expected = {}, {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            kind = types.get(engine.get_tensor_dtype(name), "another type")
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                low, _, high = (tuple(s) for s in engine.get_tensor_profile_shape(name, 0))
                found[name] = f"{kind} {low} to {high}"
            else:
                found[name] = f"{kind} {tuple(engine.get_tensor_shape(name))[1:]}"
        low, high = ((size, *self._sample) for size in (self.min_batch, self.max_batch))
        expected[INPUT_NAME] = f"{self._input_type} {low} to {high}"
        expected |= {name: f"float32 {shape}" for name, shape in outputs.items()}
        if found != expected:
            wrong = {
                n: found.get(n) for n in {*found, *expected} if found.get(n) != expected.get(n)
            }
            raise ModelError(
                f"{self._source}: its engine does not have what its metadata say (found {wrong}); "
                "build it again from the ONNX file."
            )

    def _memory(self, sample: tuple[int, ...], dtype: np.dtype[Any]) -> Memory:
        host = PinnedBuffer(self._cuda, (self.max_batch, *sample), dtype)
        self._opened.callback(host.close)
        device = DeviceBuffer(self._cuda, host.array.nbytes)
        self._opened.callback(device.close)
        return Memory(host, device)

    def _new_execution(self, *, for_graph: bool = False) -> Any:
        engine = self._engine
        if for_graph and self._info.builder == "tensorrt-rtx":
            execution = eager_execution(self._trt, engine)
        else:
            execution = engine.create_execution_context()
        if execution is None:
            raise self._failed("has no memory for another execution context")
        for name, memory in (
            (INPUT_NAME, self._input),
            (VALUES_NAME, self._values),
            (BIN_PROBS_NAME, self._bin_probs),
        ):
            if not execution.set_tensor_address(name, memory.device.handle):
                raise self._failed(f"refused the memory for {name!r}")
        return execution

    def _infer(self, size: int) -> None:
        """Run what lies in the input's pinned buffer; leave the results in those of the outputs."""
        run = self._runs.get(size)
        if run is not None:
            self._stream.launch(run.graph)
            self._stream.synchronize()
            return
        # A size that comes a second time will come again. The second run is an ordinary one in the
        # context to be captured: TensorRT needs one before, which allocates and compiles.
        again = self.graphs and size in self._sizes and len(self._runs) < MOST_GRAPHS
        execution = self._execution
        if again:
            try:
                execution = self._new_execution(for_graph=True)
            except GpuError as error:
                again = self._without_graphs(error)
        if not execution.set_input_shape(INPUT_NAME, (size, *self._sample)):
            raise self._failed(f"refused a batch of {size}")
        self._enqueue(execution, size)
        self._stream.synchronize()
        self._sizes.add(size)
        if again:
            try:
                graph = self._stream.capture(lambda: self._enqueue(execution, size))
            except GpuError as error:
                self._without_graphs(error)
            else:
                self._runs[size] = CapturedRun(graph, execution)

    def _enqueue(self, execution: Any, size: int) -> None:
        self._stream.upload(self._input.host.array[:size], self._input.device)
        if not execution.execute_async_v3(self._stream.handle):
            raise self._failed(f"could not run a batch of {size}")
        for memory in (self._values, self._bin_probs):
            self._stream.download(memory.device, memory.host.array[:size])

    def _without_graphs(self, error: GpuError) -> bool:
        """Go on without CUDA graphs, which are a matter of speed only; return False."""
        self.graphs = False
        self.notes.append(f"CUDA graphs are not used: {error}")
        return False

    def _failed(self, what: str) -> GpuError:
        said, self._errors[:] = list(self._errors), []
        return GpuError(f"{self._source}: {self._trt.__name__} {what} ({reason_of(said)}).")

    def _forget_executions(self) -> None:
        with self._cuda.current():
            for run in self._runs.values():
                run.graph.close()
            self._runs.clear()
            self._execution = None

    def _forget_engine(self) -> None:
        with self._cuda.current():
            self._engine = self._runtime = None
