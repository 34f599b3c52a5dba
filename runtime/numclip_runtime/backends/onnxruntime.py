"""ONNX Runtime backend."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numclip_runtime.backends.huge_pages import LargePages
from numclip_runtime.backends.onnx_weights import MappedModel
from numclip_runtime.backends.onnxruntime_providers import (
    CPU_PROVIDER,
    load_cuda_packages,
    why_not,
    with_fallbacks,
)
from numclip_runtime.cuda.probe import LIBRARY, CudaDriver, probe_cuda
from numclip_runtime.errors import (
    GpuError,
    GpuRequiredError,
    MissingDependencyError,
    ModelError,
    UsageError,
    first_line,
)
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.onnx_file import metadata_of, no_metadata
from numclip_runtime.preprocess import FloatArray, InputArray
from numclip_runtime.system import usable_cores

if TYPE_CHECKING:
    from numclip_runtime.backends import DeviceKind, OptimizeFor

# One run uploads and downloads while another computes; a third would only wait, and hold memory.
GPU_LANES = 2


class OnnxRuntimeBackend:
    """Run an ONNX file with onnxruntime, on the CPU or a GPU.

    onnxruntime goes to the CPU where it cannot use a GPU, and says so in its log at most. Here
    `provider` is what the opened session reports, and `notes` say why it is not what was asked for.
    GPU providers are not verified on hardware.

    Args:
        model: Path of a file that numclip exported.
        threads: Threads inside one inference; None: as `optimize_for` says.
        device: "auto" takes a GPU where it can be used; that there is none is then no note.
        provider: Of the GPU.
        require_gpu: Raise where it would run on the CPU.
        optimize_for: On the CPU: "latency" leaves onnxruntime's choice (all cores), "throughput" is
            one thread and as many runs at a time as there are cores.
        library: The NVIDIA driver's library.

    Raises:
        MissingDependencyError: if onnxruntime is not installed.
        ModelError: if the file is no ONNX model, or not one that numclip exported.
        GpuRequiredError: if a GPU is required and cannot be used.
    """

    name = "onnxruntime"
    max_batch: int | None = None

    def __init__(
        self,
        model: Path,
        *,
        threads: int | None = None,
        device: DeviceKind = "auto",
        provider: str = "CUDAExecutionProvider",
        require_gpu: bool = False,
        optimize_for: OptimizeFor = "latency",
        library: str = LIBRARY,
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise MissingDependencyError(
                "onnxruntime is not installed; install it with: pip install 'numclip[cpu]'"
            ) from None
        if os.environ.get("ORT_DISABLE_TELEMETRY") != "0":
            ort.disable_telemetry_events()  # on Windows, which does not heed the variable
        self._source, self._ort = str(model), ort
        self.threads = threads
        self.notes: list[str] = []
        metadata = metadata_of(model)
        # With it, a float16 ViT of 2 blocks or more crashes the process (1.23 to 1.32, x86).
        half = metadata is not None and metadata.precision == "fp16"
        self._disabled = ["NchwcTransformer"] if half else None
        # On ARM with SME (emulated) KleidiAI's INT8 kernels were wrong by 2.4 years of 101 (1.32)
        int8 = metadata is not None and metadata.precision == "int8"
        self._without_kleidiai = int8 and platform.machine().lower() in ("aarch64", "arm64")
        self._optimized_by = None if metadata is None else metadata.optimized_by
        self._spin = True
        self._pages: LargePages | None = None  # on the CPU
        driver = CudaDriver(problem="not asked for") if device == "cpu" else probe_cuda(library)
        problem = why_not(provider, ort.get_available_providers(), driver)
        if problem is None:
            problem = self._open_on_gpu(provider)
        if problem is not None:
            if require_gpu:
                raise GpuRequiredError(f"{model}: a GPU is required, and not used: {problem}.")
            if device == "cuda" or (device == "auto" and driver.problem is None):
                self.notes.append(f"{model}: runs on the CPU: {problem}.")
            self.threads = _threads_per_run(threads, throughput=optimize_for == "throughput")
            # Threads that wait for work spin, and take the time of those that decode: 2 of them
            # beside 2 workers give 37 images/s instead of 47. One inference alone is faster so.
            self._spin = optimize_for == "latency"
            self._pages = LargePages()
            try:
                self._session = self._open_on_cpu(model)
            except Exception as error:  # onnxruntime's own exception types share no base class
                made = (
                    f"; it was made for {self._optimized_by}, and here is {ort.__version__}"
                    if self._optimized_by
                    else ""
                )
                raise ModelError(
                    f"{model}: not a model that onnxruntime can load ({first_line(error)}){made}."
                ) from None
            self._pages.opened()
        self.provider = str(self._session.get_providers()[0])
        self.device = "cpu" if problem is not None else driver.devices[0].name
        cores = usable_cores()
        self.lanes = max(1, cores // (self.threads or cores)) if self.device == "cpu" else GPU_LANES
        if metadata is None:
            raise no_metadata(model)
        self.metadata = metadata
        names = {node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := {INPUT_NAME, VALUES_NAME, BIN_PROBS_NAME} - names:
            raise ModelError(
                f"{model}: the graph lacks {sorted(missing)}; it was changed after export."
            )

    def _open_on_cpu(self, model: Path) -> Any:
        mapped = MappedModel(model)
        if mapped.graph is not None:
            with suppress(Exception):  # what is wrong with it is said below
                session = self._open(None, mapped)
                if mapped.unchanged():
                    return session
        return self._open(None)

    def _open(self, provider: str | None, mapped: MappedModel | None = None) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3  # errors only: they are raised as well
        if self._optimized_by is not None:  # the second time takes 20 ms of 100, and finds nothing
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self._without_kleidiai:
            options.add_session_config_entry("mlas.disable_kleidiai", "1")
        if not self._spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source: str | bytes = self._source
        if mapped is not None and mapped.graph is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", mapped.folder
            )
            source = mapped.graph
        return self._ort.InferenceSession(
            source,
            options,
            providers=with_fallbacks(provider),
            disabled_optimizers=self._disabled,
            enable_fallback=0,  # else it goes to the CPU by itself, and prints to stdout
        )

    def _open_on_gpu(self, provider: str) -> str | None:
        """Open the session on a GPU; return why that failed."""
        try:
            load_cuda_packages(self._ort)
            self._session = self._open(provider)
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
            GpuError: if the GPU fails, such as when its memory runs out.
        """
        session = self._session  # a `close` meanwhile frees it after this run
        if session is None:
            raise UsageError(f"{self._source}: was closed; load it again.")
        try:
            values, bin_probs = session.run([VALUES_NAME, BIN_PROBS_NAME], {INPUT_NAME: images})
        except Exception as error:
            if self.device == "cpu":
                raise
            raise GpuError(
                f"{self._source}: {self.provider} failed ({first_line(error)})."
            ) from None
        if self._pages is not None:
            self._pages.ran(len(images))
        return values, bin_probs

    def close(self) -> None:
        """Free the session."""
        if self._pages is not None:
            self._pages.close()
        self._session = None  # idempotent


def _threads_per_run(threads: int | None, *, throughput: bool) -> int | None:
    """Return how many threads onnxruntime gets for one inference on the CPU.

    Args:
        threads: The user's choice.
        throughput: One, so that as many run at a time as there are cores; else all.

    Returns:
        None where onnxruntime may choose. It takes the machine's cores, whatever this process may
        use of them, so where these are fewer it is told.
    """
    if threads is not None or throughput:
        return threads or 1
    cores = usable_cores()
    return None if cores == os.cpu_count() else cores
