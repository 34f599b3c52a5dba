"""Backends on a GPU whose copies are timed apart from the network. Not verified on hardware."""

from __future__ import annotations

from statistics import median
from time import perf_counter_ns
from typing import Any

from numclip_runtime.backends import Backend
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import FloatArray, InputArray

PROBES = 20  # runs with events, per batch size


def with_copies_apart(backend: Backend) -> Backend:
    """Return a backend that can time its copies, where it runs on a GPU; else the same."""
    if backend.name == "tensorrt":
        return PlanCopies(backend)
    if backend.name == "onnxruntime" and backend.provider == "CUDAExecutionProvider":
        return OnnxCopies(backend)
    return backend


class _Wrapped:
    def __init__(self, backend: Backend) -> None:
        self.name, self.provider, self.device = backend.name, backend.provider, backend.device
        self.metadata = backend.metadata
        self._backend: Any = backend

    @property
    def notes(self) -> Any:
        return self._backend.notes

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        values, bin_probs = self._backend.run(images)
        return values, bin_probs

    def close(self) -> None:
        self._backend.close()


class OnnxCopies(_Wrapped):
    """onnxruntime with CUDA, its inputs and outputs bound to the device.

    `InferenceSession.run` copies inside the call; with I/O binding the copies are calls of their
    own that wait for the device.
    """

    def run_apart(self, images: InputArray) -> tuple[FloatArray, FloatArray, int, int]:
        """See `benchmarks.stages.CopiesApart`."""
        import onnxruntime as ort

        session = self._backend._session
        binding = session.io_binding()
        start = perf_counter_ns()
        there = ort.OrtValue.ortvalue_from_numpy(images, "cuda", 0)
        uploaded = perf_counter_ns()
        binding.bind_ortvalue_input(INPUT_NAME, there)
        for name in (VALUES_NAME, BIN_PROBS_NAME):
            binding.bind_output(name, "cuda")
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = perf_counter_ns()
        values, bin_probs = binding.copy_outputs_to_cpu()
        return values, bin_probs, uploaded - start, perf_counter_ns() - computed


class PlanCopies(_Wrapped):
    """A TensorRT plan, its copies measured with the device's events.

    What users run is one CUDA graph of upload, network and download, in which nothing can be told
    apart. So each batch size first runs a few times without a graph, with events between the three;
    their medians then stand for the copies of each timed run.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._copies: dict[int, tuple[int, int]] = {}  # batch -> upload, download, ns

    def run_apart(self, images: InputArray) -> tuple[FloatArray, FloatArray, int, int]:
        """See `benchmarks.stages.CopiesApart`."""
        size = len(images)
        if size not in self._copies:
            self._copies[size] = self._probe(images)
        values, bin_probs = self._backend.run(images)
        return values, bin_probs, *self._copies[size]

    def _probe(self, images: InputArray) -> tuple[int, int]:
        """Return the median time of upload and download, ns, by events."""
        from numclip_runtime.cuda import Event

        runner = self._backend._runner
        parts = -(-len(images) // runner.max_batch)
        size = min(max(len(images), runner.min_batch), runner.max_batch)
        count = min(len(images), size)
        uploads, downloads = [], []
        with runner._lock, runner._cuda.current():
            stream, execution = runner._stream, runner._execution
            runner._input.host.array[:count] = images[:count]
            execution.set_input_shape(INPUT_NAME, (size, *images.shape[1:]))
            events = [Event(runner._cuda) for _ in range(4)]
            for _ in range(PROBES):
                events[0].record(stream)
                stream.upload(runner._input.host.array[:size], runner._input.device)
                events[1].record(stream)
                execution.execute_async_v3(stream.handle)
                events[2].record(stream)
                for memory in (runner._values, runner._bin_probs):
                    stream.download(memory.device, memory.host.array[:size])
                events[3].record(stream)
                stream.synchronize()
                uploads.append(events[1].milliseconds_since(events[0]))
                downloads.append(events[3].milliseconds_since(events[2]))
            for event in events:
                event.close()
        upload, download = (round(parts * median(ms) * 1e6) for ms in (uploads, downloads))
        return upload, download
