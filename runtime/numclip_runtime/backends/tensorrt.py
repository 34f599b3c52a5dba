"""TensorRT backend: plans of TensorRT and TensorRT-RTX, with numpy and the driver only."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np

from numclip_runtime.backends.plan_check import (
    check_gpu,
    check_plan_sha256,
    check_version,
    choose_module,
)
from numclip_runtime.backends.tensorrt_module import load_module
from numclip_runtime.backends.tensorrt_runner import TensorRTRunner
from numclip_runtime.cuda_probe import LIBRARY, probe_cuda
from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.plan import read_plan_metadata
from numclip_runtime.preprocess import FloatArray, InputArray


class TensorRTBackend:
    """Run a plan that `numclip-export --onnx` built, on the first visible GPU.

    Checks come before TensorRT: the file's SHA-256, what the plan says about itself, the driver,
    the GPU, the TensorRT version. So what does not fit is a sentence, not a crash.

    Batches larger than the plan's largest run in parts, smaller than its smallest are filled up. A
    batch size that comes a second time is captured as a CUDA graph. Threads may share a backend:
    inferences run one after the other.

    Not verified on hardware: tests run it with stand-ins for the driver and for TensorRT.

    Args:
        model: Path of the plan.
        sha256: What its SHA-256 must be; None: what `<model>.sha256` says, where that exists.
        library: The driver's library.

    Raises:
        ModelError: if the file is no plan of numclip, its SHA-256 differs, or this TensorRT cannot
            run it.
        GpuRequiredError: if here is no GPU, or the plan is for others.
        MissingDependencyError: if the TensorRT that it needs is not installed.
    """

    name = "tensorrt"
    lanes = 1
    threads: int | None = None

    def __init__(self, model: Path, *, sha256: str | None = None, library: str = LIBRARY) -> None:
        try:
            plan = model.read_bytes()
        except OSError as error:
            raise ModelError(f"{model}: cannot read this plan ({error.strerror}).") from None
        check_plan_sha256(model, plan, sha256)  # of the bytes that TensorRT will get
        info = read_plan_metadata(model)
        device = check_gpu(model, info, probe_cuda(library))
        trt = load_module(choose_module(info))
        check_version(model, info, str(trt.__version__), device)
        self.metadata = info.metadata
        self.provider = f"{trt.__name__} {trt.__version__}"
        self.device = device.name
        self._runner = runner = TensorRTRunner(trt, plan, info, str(model), library)
        self.max_batch: int | None = runner.max_batch
        self._close = weakref.finalize(self, runner.close)

    @property
    def notes(self) -> list[str]:
        """What is not as one would expect, one sentence each."""
        return self._runner.notes

    @property
    def cuda_graphs(self) -> bool:
        """Whether CUDA graphs are used; False once one could not be captured, see `notes`."""
        return self._runner.graphs

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`. The results are the caller's own arrays.

        Raises:
            UsageError: if the array is not what `metadata.input` and the preprocessing say.
            GpuError: if TensorRT or the driver fails.
        """
        runner = self._runner
        if not runner.accepts(images):
            raise UsageError(
                f"images: {images.dtype} {images.shape} do not fit; make them with "
                "`Predictor.preprocess`."
            )
        count = len(images)
        values = np.empty(count, np.float32)
        bin_probs = np.empty((count, self.metadata.task.num_bins), np.float32)
        for start in range(0, count, runner.max_batch):
            part = slice(start, start + runner.max_batch)
            runner.run(images[part], values[part], bin_probs[part])
        return values, bin_probs

    def close(self) -> None:
        """Free all on the GPU; a second time is fine."""
        self._close()
