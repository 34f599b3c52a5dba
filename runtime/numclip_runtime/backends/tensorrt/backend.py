"""TensorRT backend: plans of TensorRT and TensorRT-RTX, with numpy and the driver only."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from numclip_runtime.backends import DEFAULTS, OpenOptions
from numclip_runtime.backends.after_fork import FORKED, forget_after_fork, never_freed
from numclip_runtime.backends.close_guard import CloseGuard
from numclip_runtime.backends.tensorrt.checks import (
    check_gpu,
    check_version,
    choose_module,
)
from numclip_runtime.backends.tensorrt.engine import LoadedPlan, Mark
from numclip_runtime.backends.tensorrt.lane import Lane
from numclip_runtime.backends.tensorrt.module import load_module
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.probe import LIBRARY, probe_cuda
from numclip_runtime.errors import GpuError, UsageError
from numclip_runtime.metadata import Arithmetic
from numclip_runtime.model_files.open_model import OpenModel, opened
from numclip_runtime.model_files.pin import check_pinned
from numclip_runtime.model_files.plan import read_plan_metadata
from numclip_runtime.preprocess import FloatArray, InputArray

# One computes while the other copies; a third would only wait for the GPU, and use memory.
DEFAULT_LANES = 2


class TensorRTBackend:
    """Run a plan that `numclip-export --onnx` built, on the first visible GPU.

    Checks come before TensorRT: the file's SHA-256, its metadata, the driver, the GPU, the TensorRT
    version. So a plan that does not fit is an error message, not a crash.

    Batches larger than the plan's largest run in parts, smaller than its smallest are filled up. A
    batch size that comes a second time is captured as a CUDA graph.

    Threads may share a backend. Up to `lanes` runs at a time overlap: while one computes, the next
    uploads and the one before downloads, since a GPU has an engine for each of the three; more runs
    wait. Each lane has a stream, buffers for the largest batch, pinned and on the GPU (150,528
    bytes an image with uint8 at 224 pixels), an execution context, and up to 2 CUDA graphs with one
    each; TensorRT's scratch memory is in each context. All lanes are made on opening. If memory
    runs out after the first one, `notes` explain that and there are fewer.

    Lanes, copies and CUDA graphs are verified on an H200 with PyTorch in the place of TensorRT, see
    `benchmarks/results/gpu-proof.json`. With TensorRT itself it is not verified on hardware: tests
    run it with stand-ins for the driver and for TensorRT.

    Args:
        model: The plan: its path, or the open file.
        options: `sha256` is used.
        library: The driver's library.
        lanes: Number of runs that overlap at most, at least 1.

    Raises:
        UsageError: if lanes is less than 1.
        ModelError: if the file is not a plan of numclip, its SHA-256 differs, or this TensorRT
            cannot run it.
        GpuRequiredError: if there is no GPU, or the plan was built for others.
        MissingDependencyError: if the TensorRT that it needs is not installed.
        GpuError: if TensorRT or the driver fails, such as when memory runs out.
    """

    name = "tensorrt"
    threads: int | None = None

    def __init__(
        self,
        model: Path | OpenModel,
        options: OpenOptions = DEFAULTS,
        *,
        library: str = LIBRARY,
        lanes: int = DEFAULT_LANES,
    ) -> None:
        if lanes < 1:
            raise UsageError(f"lanes must be at least 1, got {lanes}.")
        with opened(model) as file:
            path = file.path
            check_pinned(file, options.sha256)
            info = read_plan_metadata(file)
            device = check_gpu(path, info, probe_cuda(library))
            trt = load_module(choose_module(info))
            check_version(path, info, str(trt.__version__), device)
            plan = file.content[:]
            file.check_unchanged()
        self.metadata = info.metadata
        self.precision: Arithmetic = info.metadata.precision
        self.provider = f"{trt.__name__} {trt.__version__}"
        self.device = device.name
        self.max_batch: int | None = info.engine.max_batch
        held = ExitStack()  # closes in reverse: lanes, plan, CUDA
        try:
            cuda = CudaContext(library=library)
            held.callback(cuda.close)
            with cuda.current():
                self._loaded = LoadedPlan(cuda, trt, plan, info, str(path))
            held.callback(self._loaded.close)
            self._idle: SimpleQueue[Lane] = SimpleQueue()
            self.lanes = self._make_lanes(lanes, held)
        except BaseException:
            held.close()
            raise
        self._guard = CloseGuard(f"{path}: was closed; load it again.")
        self._close = weakref.finalize(self, self._guard.close, held.close)
        self._path, self._forgotten = path, False
        forget_after_fork(self)

    def _make_lanes(self, wanted: int, held: ExitStack) -> int:
        """Make lanes as far as memory allows, at least one; return how many."""
        loaded = self._loaded
        for made in range(wanted):
            try:
                with loaded.lock, loaded.cuda.current():
                    lane = Lane(loaded)
            except GpuError as error:
                if made == 0:
                    raise
                most = "1 batch at a time, so none overlap" if made == 1 else f"{made} at a time"
                loaded.notes.append(f"{loaded.source}: at most {most}: {error}")
                return made
            held.callback(lane.close)
            self._idle.put(lane)
        return wanted

    @property
    def notes(self) -> list[str]:
        """Warnings for the user, one sentence each."""
        return self._loaded.notes

    @property
    def cuda_graphs(self) -> bool:
        """Whether CUDA graphs are used; False once one could not be captured, see `notes`."""
        return self._loaded.graphs

    def run(self, images: InputArray | Sequence[InputArray]) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`. The results are the caller's own arrays.

        Args:
            images: As there, or a list with an array per image. It saves `np.stack`: each goes
                straight into pinned memory, 0.5 ms in place of 1.3 for 64 uint8 images of 224
                pixels.

        Raises:
            UsageError: if the array does not fit `metadata.input` and the preprocessing, or after
                `close`.
            GpuError: if TensorRT or the driver fails.
        """
        loaded = self._loaded
        stacked = isinstance(images, np.ndarray)
        arrays: Sequence[InputArray] = (images,) if isinstance(images, np.ndarray) else images
        for array in arrays:
            shape = array.shape[1:] if stacked else array.shape
            if array.dtype != loaded.input_type or shape != loaded.sample:
                raise UsageError(
                    f"images: {array.dtype} {array.shape} do not fit; make them with "
                    "`Predictor.preprocess`."
                )
        count, most = len(images), loaded.max_batch
        if 0 < count <= most:
            return self._run(images)
        parts = [self._run(images[start : start + most]) for start in range(0, count, most)]
        parts.append((np.empty(0, np.float32), np.empty((0, loaded.num_bins), np.float32)))
        values, bin_probs = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(bin_probs)

    def _run(self, images: InputArray | Sequence[InputArray]) -> tuple[FloatArray, FloatArray]:
        """Run at most `max_batch` images in an idle lane."""
        if self._forgotten:
            raise UsageError(f"{self._path}: {FORKED}")
        with self._guard:
            lane = self._idle.get()
            try:
                return lane.run(images)
            finally:
                self._idle.put(lane)

    def trace(self, mark: Mark | None) -> None:
        """Call a function between the stages of every run from now on, for a timeline.

        A graph runs as a whole, so none is made meanwhile. Call it before the first run of a size.

        Args:
            mark: Gets the run's stream and "start", "upload", "compute" or "download", the stage
                that was just enqueued there; called in the thread that runs. None: stop calling,
                and make graphs again.
        """
        self._loaded.mark, self._loaded.graphs = mark, mark is None

    def close(self) -> None:
        """Wait for the runs that are under way, then free everything on the GPU; idempotent.

        From a signal handler that interrupts a run it returns at once, and the run's end frees all.
        """
        self._close()

    def forget(self) -> None:
        """Let go of the engine in a forked process, where CUDA does not work."""
        if self._close.detach() is not None:
            never_freed(self._loaded, self._idle)
            self._guard.renew()
            self._forgotten = True
