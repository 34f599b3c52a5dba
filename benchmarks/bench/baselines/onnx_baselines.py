"""The checkpoint's straight ONNX export, in the runtimes that a competent engineer would try."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench.baselines.device_copies import OnnxCopies
from numclip_runtime import UsageError, read_metadata
from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend
from numclip_runtime.backends.openvino import OpenVinoBackend
from numclip_runtime.errors import require
from numclip_runtime.metadata import (
    BIN_PROBS_NAME,
    INPUT_NAME,
    VALUES_NAME,
    Arithmetic,
    ModelMetadata,
)
from numclip_runtime.preprocess import FloatArray
from numclip_runtime.system import has_bf16


class PlainOnnx(OnnxRuntimeBackend):
    """onnxruntime on the CPU."""

    def __init__(self, file: Path, threads: int | None) -> None:
        super().__init__(file, OpenOptions(threads=threads, device="cpu"))


class PlainOnnxCuda(OnnxCopies):
    """onnxruntime with CUDA. Not verified on hardware."""

    def __init__(self, file: Path, threads: int | None) -> None:
        options = OpenOptions(threads=threads, device="cuda", require_gpu=True)
        super().__init__(OnnxRuntimeBackend(file, options))


class PlainOpenVino(OpenVinoBackend):
    """OpenVINO on the CPU, for latency, in float32."""

    def __init__(self, file: Path, threads: int | None) -> None:
        super().__init__(file, OpenOptions(threads=threads))


class _Compiled:
    """A file as OpenVINO computes it when asked for a precision."""

    precision: Arithmetic = "fp32"
    name = "openvino"
    provider = "CPU"
    device = "cpu"
    notes = ()
    lanes = 1
    max_batch: int | None = None

    def __init__(self, file: Path, threads: int | None, metadata: ModelMetadata, hint: str) -> None:
        require("openvino", "openvino")
        import openvino

        self.threads, self.metadata = threads, metadata
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = openvino.Core().compile_model(str(file), "CPU", config)
        self._outputs = [compiled.output(name) for name in (VALUES_NAME, BIN_PROBS_NAME)]
        self._request = compiled.create_infer_request()

    def run(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        results = self._request.infer({INPUT_NAME: images}, share_inputs=True)
        values, bin_probs = (results[output] for output in self._outputs)
        return values, bin_probs

    def close(self) -> None:
        """Free the model."""
        self._request = None


class PlainOpenVinoBf16(_Compiled):
    """OpenVINO's own choice on CPUs with bfloat16: the head as well."""

    precision: Arithmetic = "bf16"

    def __init__(self, file: Path, threads: int | None) -> None:
        if not has_bf16():  # OpenVINO would emulate it
            raise UsageError("this CPU has no instructions for bfloat16.")
        super().__init__(file, threads, read_metadata(file), "bf16")


class NncfInt8(_Compiled):
    """The plain file as OpenVINO's own compressor writes it: see `baseline_files.quantise`."""

    precision: Arithmetic = "int8"

    def __init__(self, file: Path, threads: int | None) -> None:
        beside = file.with_suffix(".json")  # an .xml carries no metadata
        metadata = ModelMetadata.from_json(beside.read_text("utf-8"), source=str(beside))
        super().__init__(file, threads, metadata, "f32")
