"""Inference backends: how a model is opened, and by which backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from numclip_runtime.errors import UsageError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.model_file import PLAN_SUFFIXES, check_model_path, check_sha256
from numclip_runtime.preprocess import FloatArray, InputArray

DeviceKind = Literal["auto", "cpu", "cuda"]
# onnxruntime runs on the CPU or with CUDA, the next two through TensorRT's own providers
BackendName = Literal[
    "onnxruntime", "onnxruntime-tensorrt", "onnxruntime-rtx", "openvino", "tensorrt"
]
OptimizeFor = Literal["latency", "throughput"]


@dataclass(frozen=True)
class OpenOptions:
    """How a model is opened.

    Raises:
        UsageError: if a value is unknown or out of range.
    """

    # CPU threads inside one inference, at least 1; None: as `optimize_for` chooses
    threads: int | None = None
    # "auto": a GPU if one can be used, else the CPU; a plan always runs on a GPU. If an ONNX file
    # runs on the CPU although a GPU is present or was requested, `notes` of the backend explain why
    device: DeviceKind = "auto"
    backend: BackendName | None = None  # None: onnxruntime for ONNX files, tensorrt for plans
    # Expected SHA-256 of the file, hexadecimal. None: not checked, except that a plan is compared
    # with `<model>.sha256` if that file exists
    sha256: str | None = None
    require_gpu: bool = False  # refuse to run on the CPU
    # Use of the CPU's cores. "latency": all of them inside one inference, for single images.
    # "throughput": one core per inference and as many inferences at a time, for `Predictor.stream`
    # and for predictions from many threads. No effect on a GPU
    optimize_for: OptimizeFor = "latency"
    # Decode large JPEG files at 1/2, 1/4 or 1/8 size, at least twice as large as the network needs;
    # `numclip-run --fast-decode` measures the change of the values. Other images: exactly
    fast_decode: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}.")
        for name, value, choices in (
            ("optimize_for", self.optimize_for, get_args(OptimizeFor)),
            ("device", self.device, get_args(DeviceKind)),
            ("backend", self.backend, (None, *get_args(BackendName))),
        ):
            if value not in choices:
                raise UsageError(
                    f"unknown {name} {value!r}; choose from {', '.join(choices[-5:])}."
                )

    def check(self, model: Path) -> None:
        """Refuse options that contradict each other or the model.

        Raises:
            UsageError: if they do.
            ModelError: if the file is missing or of an unknown kind.
        """
        check_model_path(model)
        plan = model.suffix in PLAN_SUFFIXES
        if plan and self.backend not in (None, "tensorrt"):
            raise UsageError(f"{model}: {self.backend} does not run plans; leave the backend out.")
        if not plan and self.backend == "tensorrt":
            raise UsageError(
                f"{model}: TensorRT runs plans; build one with "
                f"`numclip-export --onnx {model.name} --target tensorrt`."
            )
        needs_gpu = self.require_gpu or plan or (self.backend or "").startswith("onnxruntime-")
        if self.device == "cpu" and needs_gpu:
            raise UsageError(f"{model}: the CPU was chosen, and the other options need a GPU.")
        if self.backend == "openvino" and (self.device == "cuda" or self.require_gpu):
            raise UsageError("openvino runs on the CPU here; leave it out to run on a GPU.")


DEFAULTS = OpenOptions()


class Backend(Protocol):
    """A loaded model that turns network inputs into values and bin probabilities."""

    name: str  # "onnxruntime"
    provider: str  # what executes the network, such as "CPUExecutionProvider"
    device: str  # "cpu", or the GPU's name
    metadata: ModelMetadata
    lanes: int  # concurrent calls of `run` that gain speed; more are allowed, and wait
    threads: int | None  # CPU threads inside one run; None: the backend's choice, or a GPU runs it
    max_batch: int | None  # images in one run, larger batches are split; None: no limit

    @property
    def notes(self) -> Sequence[str]:
        """Warnings for the user, such as an unused GPU; may grow while running."""
        ...

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; several threads may do so at a time.

        Args:
            images: Contiguous, as `metadata.input` states: (B, 3, H, W) float32, normalised RGB, or
                (B, H, W, 3) uint8 RGB.

        Returns:
            values (B,) float32 in label units, and bin_probs (B, K) float32.

        Raises:
            UsageError: after `close`.
        """
        ...

    def close(self) -> None:
        """Free the model; idempotent."""
        ...


def open_backend(model: Path, options: OpenOptions = DEFAULTS) -> Backend:
    """Open a model file with the backend that its kind calls for, or with the one named.

    Args:
        model: Path of a `.onnx`, `.plan` or `.engine` file.
        options: How to open it.

    Raises:
        UsageError: if options and model contradict each other.
        ModelError: if the file is missing, of an unknown kind, broken, or not the pinned one.
        MissingDependencyError: if the backend's package is not installed.
        GpuRequiredError: if a GPU is needed and none can be used.
    """
    options.check(model)
    if model.suffix in PLAN_SUFFIXES:
        from numclip_runtime.backends.tensorrt.backend import TensorRTBackend

        return TensorRTBackend(model, options)
    if options.sha256 is not None:
        from numclip_runtime.files import sha256

        check_sha256(model, sha256(model), options.sha256)
    if options.backend == "openvino":
        from numclip_runtime.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, options)
    from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, options)
