"""OpenVINO backend: the CPU, faster than onnxruntime on most x86 machines."""

from __future__ import annotations

import threading
from pathlib import Path

from numclip_runtime.backends.onnx_header import metadata_of, no_metadata
from numclip_runtime.errors import MissingDependencyError, ModelError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import FloatArray, InputArray


class OpenVinoBackend:
    """Run an ONNX file with OpenVINO on the CPU, tuned for latency.

    Args:
        model: Path of a file that numclip exported.
        threads: Threads inside one inference; None leaves OpenVINO's choice.

    Raises:
        MissingDependencyError: if openvino is not installed.
        ModelError: if the file is no ONNX model, or not one that numclip exported.
    """

    name = "openvino"
    provider = "CPU"
    device = "cpu"

    def __init__(self, model: Path, *, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError:
            raise MissingDependencyError(
                "openvino is not installed; install it with: pip install 'numclip[openvino]'"
            ) from None
        metadata = metadata_of(model)  # first: OpenVINO tries seven formats on what is no ONNX file
        if metadata is None:
            raise no_metadata(model)
        if metadata.optimized_by is not None:
            raise ModelError(
                f"{model}: was made for {metadata.optimized_by} and has operators of its own; use "
                "the float32 file with OpenVINO."
            )
        self.metadata = metadata
        self.notes: list[str] = []
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            # else it computes in bfloat16 where the CPU can: the file decides about precision
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            compiled = openvino.Core().compile_model(str(model), "CPU", config)
            self._outputs = [compiled.output(name) for name in (VALUES_NAME, BIN_PROBS_NAME)]
            compiled.input(INPUT_NAME)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"{model}: not a model that OpenVINO can run ({reason}).") from None
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()  # a request runs one inference at a time

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        with self._lock:
            # share_inputs spares a copy; what comes back is one
            results = self._request.infer({INPUT_NAME: images}, share_inputs=True)
            values, bin_probs = (results[output] for output in self._outputs)
        return values, bin_probs

    def close(self) -> None:
        """Free the model; a second time is fine."""
        self._request = None
