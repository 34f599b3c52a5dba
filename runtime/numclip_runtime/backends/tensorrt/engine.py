"""A plan that TensorRT has deserialised; all lanes share it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from numclip_runtime.backends.tensorrt.module import collecting_logger, reason_of
from numclip_runtime.backends.tensorrt.rtx import eager_execution
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.resources import Stream
from numclip_runtime.errors import GpuError, ModelError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.model_files.plan import PlanInfo

# Called with a lane's stream and the stage that was just enqueued there: "start", then STAGES.
Mark = Callable[[Stream, str], None]
STAGES = ("upload", "compute", "download")


class LoadedPlan:
    """A plan, deserialised and checked; use it inside `with cuda.current()`, except for `close`.

    `lock` must be held around every call of TensorRT, for three reasons. A first run may load
    kernels or allocate, which can synchronise the whole device, and that breaks the capture of a
    graph in any thread, in every mode (NVIDIA/TensorRT#2888; CUDA's guide, "Lazy Loading").
    TensorRT promises thread safety for different execution contexts, not for making them. And the
    logger's messages belong to the call that failed. Launching a captured graph does not call
    TensorRT, so running lanes do not wait here.

    Args:
        cuda: The context of the plan's memory.
        trt: The TensorRT package.
        plan: The serialised engine.
        info: Metadata of the plan.
        source: File named in errors.

    Raises:
        ModelError: if TensorRT refuses the plan, or it does not match its metadata.
        GpuError: if TensorRT cannot start.
    """

    def __init__(
        self, cuda: CudaContext, trt: Any, plan: bytes, info: PlanInfo, source: str
    ) -> None:
        self.cuda, self.source = cuda, source
        self.lock = threading.Lock()
        self.sizes: set[int] = set()  # batch sizes that ran, in any lane
        self.graphs = True  # whether CUDA graphs are made; False once a capture has failed
        self.mark: Mark | None = None  # for a timeline
        self.notes: list[str] = []
        facts, crop = info.engine, info.metadata.preprocessing.crop
        self.min_batch, self.max_batch = facts.min_batch, facts.max_batch
        pixels = info.metadata.input == "uint8"
        self.input_type: np.dtype[Any] = np.dtype(np.uint8 if pixels else np.float32)
        self.sample = (crop, crop, 3) if pixels else (3, crop, crop)  # one image
        self.num_bins = info.metadata.task.num_bins
        self._trt, self._rtx = trt, info.builder == "tensorrt-rtx"
        self._errors: list[str] = []  # messages of TensorRT's logger
        self._runtime: Any = None
        self._engine: Any = None
        try:
            self._open(plan, host_code="version-compatible" in facts.flags)
            self._check({VALUES_NAME: (), BIN_PROBS_NAME: (self.num_bins,)})
        except BaseException:
            self.close()
            raise

    def new_execution(self, addresses: dict[str, int], *, for_graph: bool = False) -> Any:
        """Return an execution context that reads and writes at these addresses on the GPU.

        Raises:
            GpuError: if memory runs out.
        """
        if for_graph and self._rtx:
            execution = eager_execution(self._trt, self._engine)
        else:
            execution = self._engine.create_execution_context()
        if execution is None:
            raise self.failed("has no memory for another execution context")
        for name, address in addresses.items():
            if not execution.set_tensor_address(name, address):
                raise self.failed(f"refused the memory for {name!r}")
        return execution

    def without_graphs(self, error: GpuError) -> bool:
        """Continue without CUDA graphs, which matter for speed only; return False."""
        if self.graphs:
            self.notes.append(f"CUDA graphs are not used: {error}")
        self.graphs = False
        return False

    def failed(self, what: str) -> GpuError:
        """Return an error with TensorRT's messages since the last one."""
        messages, self._errors[:] = list(self._errors), []
        return GpuError(f"{self.source}: {self._trt.__name__} {what} ({reason_of(messages)}).")

    def close(self) -> None:
        """Free it, after everything that was made from it."""
        with self.cuda.current():
            self._engine = self._runtime = None

    def _open(self, plan: bytes, *, host_code: bool) -> None:
        """Deserialise; `None` from TensorRT becomes an error with its logger's messages."""
        trt = self._trt
        self._logger = collecting_logger(trt, self._errors)  # TensorRT keeps no reference to it
        try:
            runtime = self._runtime = trt.Runtime(self._logger)
        except Exception as error:  # "factory function returned nullptr", a TypeError
            reason = reason_of(self._errors or [str(error)])
            raise GpuError(f"{trt.__name__} {trt.__version__} cannot start ({reason}).") from None
        if host_code:
            runtime.engine_host_code_allowed = True  # such a plan contains a runtime
        engine = self._engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(
                f"{self.source}: {trt.__name__} {trt.__version__} cannot load this plan "
                f"({reason_of(self._errors)}); build it again from the ONNX file."
            )

    def _check(self, outputs: dict[str, tuple[int, ...]]) -> None:
        """Refuse an engine whose tensors do not match its metadata."""
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
        low, high = ((size, *self.sample) for size in (self.min_batch, self.max_batch))
        expected[INPUT_NAME] = f"{self.input_type} {low} to {high}"
        expected |= {name: f"float32 {shape}" for name, shape in outputs.items()}
        if found != expected:
            wrong = {
                n: found.get(n) for n in {*found, *expected} if found.get(n) != expected.get(n)
            }
            raise ModelError(
                f"{self.source}: its engine does not match its metadata (found {wrong}); "
                "build it again from the ONNX file."
            )
