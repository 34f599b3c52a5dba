"""Inference backends: one small Protocol, and the choice of one by the artefact and the flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

from numclip_runtime.errors import UsageError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_file import PLAN_SUFFIXES, check_model_path
from numclip_runtime.preprocess import FloatArray, InputArray

# auto: the GPU where onnxruntime can use one, else the CPU; a plan always takes the GPU
DeviceKind = Literal["auto", "cpu", "cuda"]
# onnxruntime runs on the CPU or with CUDA, the next two through TensorRT's own providers
BackendName = Literal[
    "onnxruntime", "onnxruntime-tensorrt", "onnxruntime-rtx", "openvino", "tensorrt"
]
# On a CPU. latency: all cores inside one inference; throughput: one core each, and as many at a
# time as there are cores.
OptimizeFor = Literal["latency", "throughput"]


class Backend(Protocol):
    """A loaded model that turns network inputs into values and bin probabilities."""

    name: str  # "onnxruntime"
    provider: str  # what really executes, such as "CPUExecutionProvider"
    device: str  # "cpu", or the GPU's name
    metadata: ModelMetadata
    # How many calls of `run` at a time, from as many threads, are worth while. More are allowed.
    lanes: int
    threads: int | None  # CPU threads inside one run; None: the backend's choice, or a GPU runs it
    max_batch: int | None  # images in one run, larger batches are split; None: no limit

    @property
    def notes(self) -> Sequence[str]:
        """What is not as one would expect, such as a GPU that is not used; more may come."""
        ...

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; any thread may, also while others do.

        Args:
            images: Contiguous, as `metadata.input` says: (B, 3, H, W) float32, normalised RGB, or
                (B, H, W, 3) uint8 RGB.

        Returns:
            values (B,) float32 in label units, and bin_probs (B, K) float32.
        """
        ...

    def close(self) -> None:
        """Free the model; `run` must not be called afterwards."""
        ...


def open_backend(
    model: Path,
    *,
    threads: int | None = None,
    device: DeviceKind = "auto",
    backend: BackendName | None = None,
    sha256: str | None = None,
    require_gpu: bool = False,
    optimize_for: OptimizeFor = "latency",
) -> Backend:
    """Open a model file with the backend that its kind calls for, or with the one named.

    Args:
        model: Path of a `.onnx`, `.plan` or `.engine` file.
        threads: CPU threads inside one inference; None: as `optimize_for` says.
        device: Where to run.
        backend: None: onnxruntime for ONNX files, tensorrt for plans.
        sha256: What the file's SHA-256 must be; for a plan, None is what `<model>.sha256` says.
        require_gpu: Refuse to run on the CPU.
        optimize_for: How a CPU's cores are used: one inference soon, or many per second.

    Raises:
        UsageError: if device, backend and model contradict each other.
        ModelError: if the file is missing, of an unknown kind, broken, or not the pinned one.
        MissingDependencyError: if the backend's package is not installed.
        GpuRequiredError: if a GPU is needed and none can be used.
    """
    _check_choice(model, device, backend, require_gpu, optimize_for)
    if model.suffix in PLAN_SUFFIXES:
        from numclip_runtime.backends.tensorrt.backend import TensorRTBackend

        return TensorRTBackend(model, sha256=sha256)
    if sha256 is not None:
        from numclip_runtime.backends.checksum import check_sha256
        from numclip_runtime.files import sha256 as sha256_of

        check_sha256(model, sha256_of(model), sha256)
    if backend == "openvino":
        from numclip_runtime.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, threads=threads, optimize_for=optimize_for)
    from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend
    from numclip_runtime.backends.onnxruntime_providers import GPU_PROVIDERS

    return OnnxRuntimeBackend(
        model,
        threads=threads,
        device="cuda" if device == "auto" and backend in GPU_PROVIDERS else device,
        provider=GPU_PROVIDERS.get(backend, "CUDAExecutionProvider"),
        require_gpu=require_gpu,
        optimize_for=optimize_for,
    )


def _check_choice(
    model: Path,
    device: DeviceKind,
    backend: BackendName | None,
    require_gpu: bool,
    optimize_for: OptimizeFor,
) -> None:
    for name, value, choices in (
        ("optimize_for", optimize_for, get_args(OptimizeFor)),
        ("device", device, get_args(DeviceKind)),
        ("backend", backend, (None, *get_args(BackendName))),
    ):
        if value not in choices:
            raise UsageError(f"unknown {name} {value!r}; choose from {', '.join(choices[-5:])}.")
    check_model_path(model)
    plan = model.suffix in PLAN_SUFFIXES
    if plan and backend not in (None, "tensorrt"):
        raise UsageError(f"{model}: {backend} runs no plans; leave the backend out.")
    if not plan and backend == "tensorrt":
        raise UsageError(
            f"{model}: TensorRT runs plans; build one with "
            f"`numclip-export --onnx {model.name} --target tensorrt`."
        )
    on_gpu = device == "cuda" or require_gpu
    if device == "cpu" and (require_gpu or plan or (backend or "").startswith("onnxruntime-")):
        raise UsageError(f"{model}: the CPU was chosen, and what else was chosen needs a GPU.")
    if on_gpu and backend == "openvino":
        raise UsageError("openvino runs on the CPU here; leave it out to run on a GPU.")
