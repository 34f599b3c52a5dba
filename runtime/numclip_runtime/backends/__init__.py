"""Inference backends: one small Protocol, and the choice of one by the artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from numclip_runtime.errors import ModelError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.preprocess import FloatArray, InputArray


class Backend(Protocol):
    """A loaded model that turns network inputs into values and bin probabilities."""

    name: str  # "onnxruntime"
    provider: str  # what really executes, such as "CPUExecutionProvider"
    metadata: ModelMetadata

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network.

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


def open_backend(model: Path, *, threads: int | None = None) -> Backend:
    """Open a model file with the backend that its kind calls for.

    Args:
        model: Path of a `.onnx` file.
        threads: CPU threads inside one inference; None lets the backend choose.

    Raises:
        ModelError: if the file is missing, of an unknown kind, or broken.
        MissingDependencyError: if the backend's package is not installed.
    """
    if model.is_dir():
        raise ModelError(f"{model}: is a folder; give the model file inside it.")
    if not model.exists():
        raise ModelError(f"{model}: no such file; export one with `numclip-export --ckpt x.pt`.")
    if model.suffix != ".onnx":
        hint = (
            " Export it with `numclip-export --ckpt`." if model.suffix in (".pt", ".ckpt") else ""
        )
        raise ModelError(f"{model}: unknown kind of model, expected a .onnx file.{hint}")
    from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, threads=threads)
