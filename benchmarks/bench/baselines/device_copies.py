"""Backends on a GPU whose copies are timed apart from the network. Not verified on hardware."""

from __future__ import annotations

from itertools import pairwise
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
    """A backend with one method more."""

    def __init__(self, backend: Backend) -> None:
        self._backend: Any = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class OnnxCopies(_Wrapped):
    """onnxruntime with CUDA, its inputs and outputs bound to the device.

    `InferenceSession.run` copies inside the call; with I/O binding the copies are calls of their
    own that wait for the device.
    """

    def run_apart(self, images: InputArray) -> tuple[FloatArray, FloatArray, int, int]:
        """Run the network; return also the time of upload and download, ns."""
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

    Users run one CUDA graph of upload, network and download, whose parts cannot be timed. So each
    batch size first runs a few times without a graph, with events between the three; their medians
    then stand for the copies of each timed run.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._copies: dict[int, tuple[int, int]] = {}  # batch -> upload, download, ns

    def run_apart(self, images: InputArray) -> tuple[FloatArray, FloatArray, int, int]:
        """Run the network; return also the time of upload and download, ns."""
        size = len(images)
        if size not in self._copies:
            self._copies[size] = self._probe(images)
        values, bin_probs = self._backend.run(images)
        return values, bin_probs, *self._copies[size]

    def _probe(self, images: InputArray) -> tuple[int, int]:
        """Return the median time of upload and download, ns, by events."""
        from numclip_runtime.cuda.resources import Event, Stream

        times: dict[str, list[float]] = {"upload": [], "compute": [], "download": []}
        marks: list[tuple[str, Event]] = []  # of one run, in order

        def mark(stream: Stream, stage: str) -> None:
            event = Event(stream.context)
            event.record(stream)
            marks.append((stage, event))

        self._backend.trace(mark)
        try:
            for _ in range(PROBES):
                marks.clear()
                self._backend.run(images)  # returns when all of them have happened
                with marks[0][1].context.current():
                    for (_, before), (stage, event) in pairwise(marks):
                        if stage != "start":
                            times[stage].append(event.milliseconds_since(before))
        finally:
            self._backend.trace(None)
        # a batch larger than the plan's largest runs in parts
        parts = len(times["upload"]) // PROBES
        upload, download = (
            round(parts * median(times[stage]) * 1e6) for stage in ("upload", "download")
        )
        return upload, download
