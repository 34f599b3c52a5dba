"""Inference backends: how a model is opened, and by which backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.metadata import (
    BIN_PROBS_NAME,
    INPUT_NAME,
    VALUES_NAME,
    Arithmetic,
    ModelMetadata,
)
from numclip_runtime.model_files.names import is_served
from numclip_runtime.model_files.open_model import OpenModel, check_model_path, is_plan, opened
from numclip_runtime.model_files.pin import check_pin, compared
from numclip_runtime.preprocess import FloatArray, InputArray

if TYPE_CHECKING:  # few models are on a server
    from numclip_runtime.model_files.served import Address

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
    # runs on the CPU although a GPU is present, `notes` of the backend explain why. "cuda": a GPU,
    # or an error
    device: DeviceKind = "auto"
    # None: tensorrt for plans, onnxruntime for ONNX files, or the backend that they were made for
    backend: BackendName | None = None
    # Expected SHA-256 of the file, hexadecimal. None: as `<model>.sha256` states, which
    # numclip-export writes; not checked if there is no such file
    sha256: str | None = None
    require_gpu: bool = False  # refuse to run on the CPU, as device "cuda" does
    # Use of the CPU's cores. "latency": all of them inside one inference, for single images.
    # "throughput": one core per inference and as many inferences at a time, for `Predictor.stream`
    # and for predictions from many threads. No effect on a GPU
    optimize_for: OptimizeFor = "latency"
    # Decode large JPEG files at 1/2, 1/4 or 1/8 size, at least twice as large as the network needs;
    # `numclip-run --fast-decode` measures the change of the values. Other images: exactly
    fast_decode: bool = False
    # Compute in bfloat16 on the CPU, with OpenVINO. None: where the export proved it of the file
    # (`--bf16`), the CPU has it, OpenVINO is installed, and no GPU or other backend is chosen.
    # True: so, or an error. False: never
    bf16: bool | None = None

    def __post_init__(self) -> None:
        if self.sha256 is not None:
            check_pin(self.sha256)
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
        if is_served(model):
            from numclip_runtime.model_files.served import Address

            address = Address.parse(model)
            chosen = (self.threads, self.backend) != (None, None) or self.require_gpu or self.bf16
            if chosen or self.device != "auto":
                raise UsageError(
                    f"{address}: the server decides what runs the model; leave device, backend, "
                    "threads and bf16 out."
                )
            return
        check_model_path(model)
        plan = is_plan(model)
        if plan and self.backend not in (None, "tensorrt"):
            raise UsageError(f"{model}: {self.backend} does not run plans; leave the backend out.")
        if not plan and self.backend == "tensorrt":
            raise UsageError(
                f"{model}: TensorRT runs plans; build one with "
                f"`numclip-export --onnx {model.name} --target tensorrt`."
            )
        self.check_device(model, plan=plan)

    def check_device(self, model: Path, *, plan: bool) -> None:
        """Refuse options that contradict each other about the device.

        Args:
            model: Named in errors.
            plan: Whether a plan will run.

        Raises:
            UsageError: if they do.
        """
        needs_gpu = self.require_gpu or plan or (self.backend or "").startswith("onnxruntime-")
        if self.device == "cpu" and needs_gpu:
            raise UsageError(f"{model}: the CPU was chosen, and the other options need a GPU.")
        if self.bf16 and (plan or self.device == "cuda" or self.require_gpu):
            raise UsageError(
                f"{model}: bf16 is for ONNX files on the CPU; leave it or the GPU out."
            )
        if self.bf16 and self.backend not in (None, "openvino"):
            raise UsageError(
                f"{model}: {self.backend} does not compute in bfloat16, openvino does; leave "
                "backend or bf16 out."
            )
        if self.backend == "openvino" and (self.device == "cuda" or self.require_gpu):
            raise UsageError("openvino runs on the CPU here; leave it out to run on a GPU.")


DEFAULTS = OpenOptions()


def device_of(name: str) -> DeviceKind:
    """Return the device that a name means: "gpu", "cuda:0" and "0" are "cuda".

    Raises:
        UsageError: if it means none, or a GPU that has to be chosen otherwise.
    """
    word = name.strip().lower()
    number = word.removeprefix("gpu").removeprefix("cuda").removeprefix(":")
    if word in ("auto", "cpu"):
        return "auto" if word == "auto" else "cpu"
    if word in ("gpu", "cuda") or number == "0":
        return "cuda"
    if number.isdecimal():
        raise UsageError(
            f"device {name!r}: a GPU is chosen by CUDA_VISIBLE_DEVICES={number}, and then it is "
            "'cuda'."
        )
    raise UsageError(f"unknown device {name!r}; choose from auto, cpu, cuda (or gpu, cuda:0).")


class Backend(Protocol):
    """A loaded model that turns network inputs into values and bin probabilities."""

    name: str  # "onnxruntime"
    provider: str  # what executes the network, such as "CPUExecutionProvider"
    device: str  # "cpu", or the GPU's name
    metadata: ModelMetadata
    lanes: int  # concurrent calls of `run` that gain speed; more are allowed, and wait
    threads: int | None  # CPU threads inside one run; None: the backend's choice, or a GPU runs it
    max_batch: int | None  # images in one run, larger batches are split; None: no limit
    precision: Arithmetic  # of the network's products: the file's, or with bf16

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


def open_backend(model: Path | OpenModel | Address, options: OpenOptions = DEFAULTS) -> Backend:
    """Open a model file with the backend that its kind calls for, or with the one named.

    The file is opened once: the bytes that are hashed and checked are those that are loaded.

    Args:
        model: A `.onnx`, `.plan` or `.engine` file: its path, or the open file; or the address of a
            model on a Triton server.
        options: How to open it.

    Raises:
        UsageError: if options and model contradict each other.
        ModelError: if the file is missing, of an unknown kind, broken, or not the pinned one.
        MissingDependencyError: if the backend's package is not installed.
        GpuRequiredError: if a GPU is needed and none can be used.
    """
    if not isinstance(model, (Path, OpenModel)):
        from numclip_runtime.backends.triton import TritonBackend

        return TritonBackend(model, options)
    options.check(model if isinstance(model, Path) else model.path)
    with opened(model) as file:
        if is_plan(file.path):
            from numclip_runtime.backends.tensorrt.backend import TensorRTBackend

            return TensorRTBackend(file, options)
        with compared(file, options.sha256):
            return _open_onnx(file, options)


def _open_onnx(model: OpenModel, options: OpenOptions) -> Backend:
    from numclip_runtime.backends.bf16 import is_for_openvino

    chosen = options.backend
    if chosen == "openvino" or (chosen is None and is_for_openvino(model, options)):
        from numclip_runtime.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, options)
    from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, options)


def check_results(
    model: object, metadata: ModelMetadata, images: int, values: FloatArray, bin_probs: FloatArray
) -> None:
    """Refuse results whose shapes are not those that the metadata state.

    Raises:
        ModelError: naming the shapes.
    """
    expected = (images,), (images, metadata.task.num_bins)
    if (values.shape, bin_probs.shape) != expected:
        raise ModelError(
            f"{model}: gives values of shape {values.shape} and bin_probs of {bin_probs.shape}, "
            f"and its metadata state {expected[0]} and {expected[1]}; export the model again."
        )


def check_tensors(
    model: Path | Address,
    metadata: ModelMetadata,
    found: Mapping[str, tuple[str, Sequence[object]]],
) -> None:
    """Refuse a model whose tensors are not those that its metadata state.

    Args:
        model: Named in errors.
        metadata: Of the model.
        found: Name of each input and output -> type, such as "float32", and shape; sizes that are
            no whole numbers are not fixed.

    Raises:
        ModelError: naming the first tensor that differs.
    """
    crop, bins = metadata.preprocessing.crop, metadata.task.num_bins
    sample = (crop, crop, 3) if metadata.input == "uint8" else (3, crop, crop)
    expected = {
        INPUT_NAME: (metadata.input, sample),
        VALUES_NAME: ("float32", ()),
        BIN_PROBS_NAME: ("float32", (bins,)),
    }
    for name, (kind, shape) in expected.items():
        if name not in found:
            raise ModelError(f"{model}: the graph lacks {name!r}; it was changed after export.")
        found_kind, found_shape = found[name]
        fits = len(found_shape) == len(shape) + 1 and all(
            not isinstance(size, int) or size == wanted
            for size, wanted in zip(found_shape[1:], shape, strict=True)
        )
        if found_kind != kind or not fits:
            here, there = (
                " x ".join(map(str, sizes)) for sizes in (found_shape[:8], ("batch", *shape))
            )
            raise ModelError(
                f"{model}: {name!r} is {found_kind} of {here or 'no size'}, and its metadata state "
                f"{kind} of {there}; export the model again."
            )
