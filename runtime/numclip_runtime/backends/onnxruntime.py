"""ONNX Runtime backend, and its choice of an execution provider."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from numclip_runtime.backends import DEFAULTS, OpenOptions, check_results, check_tensors
from numclip_runtime.backends.after_fork import FORKED, forget_after_fork, never_freed
from numclip_runtime.backends.huge_pages import HugePages
from numclip_runtime.cuda.probe import LIBRARY, CudaDriver, probe_cuda
from numclip_runtime.errors import (
    GpuError,
    GpuRequiredError,
    ModelError,
    NumclipError,
    UsageError,
    first_line,
    import_extra,
)
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME, Arithmetic
from numclip_runtime.model_files.onnx_file import MappedModel, read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel, opened
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.preprocess import FloatArray, InputArray
from numclip_runtime.system import may_have_sme, threads_of_a_run, usable_cores

# One run uploads and downloads while another computes; a third would only wait, and use memory.
GPU_LANES = 2
ONNX_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
GPU_PROVIDERS: dict[str | None, str] = {
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-rtx": "NvTensorRTRTXExecutionProvider",
}
# By default CUDA rounds float32 factors to 10 bits (TF32), which exp(logit_scale) of about 100 in
# the head amplifies; engines are built without it for the same reason.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {CUDA_PROVIDER: {"use_tf32": "0"}}


class OnnxRuntimeBackend:
    """Run an ONNX file with onnxruntime, on the CPU or a GPU.

    onnxruntime goes to the CPU if it cannot use a GPU, and reports that in its log at most. Here
    `provider` is the one that the opened session reports, and `notes` explain why it is not the one
    that was requested. The CUDA provider is verified on an H200, see
    `benchmarks/results/gpu-proof.json`; those of TensorRT are not verified on hardware.

    Optimised for latency, onnxruntime chooses the threads on the CPU (all cores); for throughput an
    inference has one thread, and as many run at a time as there are cores.

    Args:
        model: A file that numclip exported: its path, or the open file.
        options: All but `sha256` and `fast_decode` are used.
        library: The NVIDIA driver's library.

    Raises:
        MissingDependencyError: if onnxruntime is not installed.
        ModelError: if the file is not an ONNX model, or not one that numclip exported.
        GpuRequiredError: if a GPU is required and cannot be used.
    """

    name = "onnxruntime"
    max_batch: int | None = None

    def __init__(
        self, model: Path | OpenModel, options: OpenOptions = DEFAULTS, *, library: str = LIBRARY
    ) -> None:
        with opened(model) as file:
            self._load(file, options, library)

    def _load(self, model: OpenModel, options: OpenOptions, library: str) -> None:
        ort = import_extra("cpu", "onnxruntime")
        if os.environ.get("ORT_DISABLE_TELEMETRY") != "0":
            ort.disable_telemetry_events()  # on Windows, where the variable has no effect
        self._source, self._ort = str(model.path), ort
        self.threads = options.threads
        self.notes: list[str] = []
        self.metadata = metadata = read_onnx_metadata(model)
        self.precision: Arithmetic = metadata.precision
        check_graph(model)
        # With it, a float16 ViT of 2 blocks or more crashes the process (1.23 to 1.32, x86).
        self._disabled = ["NchwcTransformer"] if metadata.precision == "fp16" else None
        # With SME, KleidiAI's INT8 kernels (1.32) round otherwise than those that export verified,
        # and under QEMU 7.2, whose default CPU has SME, they are wrong by 3.8 years of 101
        self._without_kleidiai = metadata.precision == "int8" and may_have_sme()
        self._spin = True
        self._pages: HugePages | None = None  # on the CPU
        device, provider = options.device, GPU_PROVIDERS.get(options.backend, CUDA_PROVIDER)
        if device == "auto" and options.backend in GPU_PROVIDERS:
            device = "cuda"
        driver = CudaDriver(problem="not asked for") if device == "cpu" else probe_cuda(library)
        problem = why_not(provider, ort.get_available_providers(), driver)
        if problem is None:
            problem = self._open_on_gpu(model, provider)
        if problem is not None:
            if options.require_gpu:
                raise GpuRequiredError(f"{model.path}: a GPU is required, and not used: {problem}.")
            if options.device == "cuda":
                raise GpuRequiredError(
                    f"{model.path}: the device cuda was asked for, and cannot be used: {problem}; "
                    "auto runs on the CPU then."
                )
            if device == "cuda" or driver.problem is None:
                self.notes.append(f"{model.path}: runs on the CPU: {problem}.")
            if metadata.backend == "openvino" and options.backend is None:
                self.notes.append(
                    f"{model.path}: was made for OpenVINO, which runs it faster and is not "
                    "installed: pip install 'numclip[openvino]'."
                )
            if metadata.int8_for_engines:
                self.notes.append(
                    f"{model.path}: its INT8 is made for TensorRT; on a CPU onnxruntime runs it "
                    "slower than float32. Use the float32 file, or export with --int8 --target cpu."
                )
            throughput = options.optimize_for == "throughput"
            if self.threads is None:  # for throughput as many runs as there are cores, else one
                self.threads = 1 if throughput else threads_of_a_run()
            # Threads that wait for work spin, and take time from those that decode: 2 of them
            # beside 2 workers give 37 images/s instead of 47. A single inference is faster so.
            self._spin = not throughput
            self._pages = HugePages()
            try:
                self._session = self._open_on_cpu(model)
            except NumclipError:
                raise
            except Exception as error:  # onnxruntime's own exception types share no base class
                made = metadata.optimized_by or ""
                if made:
                    made = f"; it was made for {made}, and here is {ort.__version__}"
                reason = f"{first_line(error)}){made}"
                raise ModelError(
                    f"{model.path}: not a model that onnxruntime can load ({reason}."
                ) from None
            self._pages.opened()
        self.provider = str(self._session.get_providers()[0])
        self.device = "cpu" if problem is not None else driver.devices[0].name
        cores = usable_cores()
        self.lanes = max(1, cores // (self.threads or cores)) if self.device == "cpu" else GPU_LANES
        self._gone = "was closed; load it again."
        forget_after_fork(self)
        inputs = self._session.get_inputs()
        if unknown := [node.name for node in inputs if node.name != INPUT_NAME]:
            raise ModelError(
                f"{model.path}: the graph has other inputs, {unknown[:5]}; it was changed after "
                "export."
            )
        check_tensors(
            model.path,
            metadata,
            {
                node.name: (ONNX_TYPES.get(node.type, node.type), node.shape)
                for node in (*inputs, *self._session.get_outputs())
            },
        )

    def _open_on_cpu(self, model: OpenModel) -> Any:
        mapped = MappedModel(model)
        if mapped.graph is not None:
            with suppress(Exception):  # a broken model is reported below
                session = self._open(mapped.graph, None, folder=mapped.folder)
                if mapped.unchanged():
                    return session
        session = self._open(model.place or model.content[:], None)
        model.check_unchanged()
        return session

    def _open(self, source: str | bytes, provider: str | None, *, folder: str | None = None) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3  # errors only, which are also raised
        if self.metadata.optimized_by is not None:
            # optimising again takes 20 ms of 100, and changes nothing
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self._without_kleidiai:
            options.add_session_config_entry("mlas.disable_kleidiai", "1")
        if not self._spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if folder is not None:  # of the weights
            # onnxruntime before 1.21 cannot, and reports that in red; the file is then read whole
            options.log_severity_level = 4
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", folder
            )
        return self._ort.InferenceSession(
            source,
            options,
            providers=with_fallbacks(provider),
            disabled_optimizers=self._disabled,
            enable_fallback=0,  # else it moves to the CPU by itself, and prints to stdout
        )

    def _open_on_gpu(self, model: OpenModel, provider: str) -> str | None:
        """Open the session on a GPU; return the reason if that failed."""
        try:
            load_cuda_packages(self._ort)
            self._session = self._open(model.place or model.content[:], provider)
            model.check_unchanged()
        except NumclipError:
            raise
        except Exception as error:  # see above
            return f"{provider} did not start ({first_line(error)})"
        found = self._session.get_providers()[0]
        if found == provider:
            return None
        reason = f"onnxruntime was asked for {provider} and took {found}, its log says why"
        if found == CPU_PROVIDER:
            return reason
        self.notes.append(f"{self._source}: {reason}.")  # still on the GPU
        return None

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`.

        Raises:
            UsageError: if it was closed.
            ModelError: if the network fails on the CPU, or its results have other shapes.
            GpuError: if the GPU fails, such as when its memory runs out.
        """
        session = self._session  # a `close` meanwhile frees it after this run
        if session is None:
            raise UsageError(f"{self._source}: {self._gone}")
        try:
            values, bin_probs = session.run([VALUES_NAME, BIN_PROBS_NAME], {INPUT_NAME: images})
        except Exception as error:
            if self.device == "cpu":
                raise ModelError(
                    f"{self._source}: onnxruntime failed to run it ({first_line(error)})."
                ) from None
            raise GpuError(
                f"{self._source}: {self.provider} failed ({first_line(error)})."
            ) from None
        check_results(self._source, self.metadata, len(images), values, bin_probs)
        if self._pages is not None:
            self._pages.ran(len(images))
        return values, bin_probs

    def close(self) -> None:
        """Free the session."""
        if self._pages is not None:
            self._pages.close()
        self._session = None  # idempotent

    def forget(self) -> None:
        """Let go of the session in a forked process."""
        if self._session is not None:
            never_freed(self._session, self._pages)
            self._session, self._pages, self._gone = None, None, FORKED


def why_not(provider: str, available: Sequence[str], driver: CudaDriver) -> str | None:
    """Return the reason why a GPU's provider cannot be requested; None if it can.

    Args:
        provider: Its name in onnxruntime.
        available: Providers of onnxruntime's build, which says nothing about this machine: a build
            for GPUs lists CUDA without a driver.
        driver: See `probe_cuda`.
    """
    if driver.problem is not None:
        return driver.problem
    if provider in available:
        return None
    hint = (
        "it is a plug-in, which numclip does not load; run a plan of --target tensorrt-rtx"
        if provider == GPU_PROVIDERS["onnxruntime-rtx"]
        else "put onnxruntime-gpu in its place: pip uninstall onnxruntime, then pip install "
        "'numclip[gpu]'"
    )
    return f"this onnxruntime was built without {provider}; {hint}"


def with_fallbacks(provider: str | None) -> list[Any]:
    """Return the providers of a session: the wanted one, and others for nodes it cannot run."""
    names = dict.fromkeys([provider, CUDA_PROVIDER] if provider else [])
    return [(name, PROVIDER_OPTIONS.get(name, {})) for name in names if name] + [CPU_PROVIDER]


def load_cuda_packages(ort: Any) -> None:
    """Load CUDA libraries that pip installed; without them, the system's are found later."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        with redirect_stdout(io.StringIO()):  # it prints the names of missing libraries
            preload()
