"""The process of one system: it loads, predicts once, and then answers commands.

Alone in its process, a system shares neither threads nor memory with the others: threads of an idle
onnxruntime session that wait by spinning made the next one in the same process look twice as slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from typing import Any

import numpy as np

from benchmarks.bench.fidelity import Outputs, features_of
from benchmarks.bench.machine.environment import loaded_versions
from benchmarks.bench.machine.nvidia import gpu_memory_mb
from benchmarks.bench.processes.programs import peak_host_mb
from benchmarks.bench.results import FixedRate, Warmup
from benchmarks.bench.stages import at_rate, batches, measure, time_batch, warm_up
from benchmarks.bench.systems import SystemUnderTest
from numclip_runtime import ImageError, Predictor


class SystemServer:
    """An opened system, and one method per command; see `child`.

    `image` is the image of the first prediction, with which all is loaded.
    """

    COMMANDS = ("memory", "images", "warm", "turn", "rate", "outputs", "values")

    def __init__(self, system: dict[str, Any], image: str) -> None:
        self.system = SystemUnderTest(**system)
        start = perf_counter_ns()
        self.predictor = Predictor(self.system.open())
        opened = perf_counter_ns()
        self.predictor.predict(image)
        self._first = {
            "open_s": (opened - start) / 1e9,
            "predict_s": (perf_counter_ns() - opened) / 1e9,
        }
        self._sources: dict[int, Iterator[list[str]]] = {}
        self._paths: list[str] = []

    def about(self) -> dict[str, Any]:
        """Return what really runs, the memory so far, and the times of the first prediction."""
        backend = self.predictor.backend
        return {
            "backend": backend.name,
            "provider": backend.provider,
            "device": backend.device,
            "precision": self.system.precision(backend.metadata),
            "unit": backend.metadata.task.unit,
            "task": backend.metadata.task.to_dict(),
            "notes": list(backend.notes),
            "versions": loaded_versions(),
            **self.memory(),
            **self._first,
        }

    def memory(self) -> dict[str, float | None]:
        """Return the peaks so far, MB."""
        return {"peak_host_mb": peak_host_mb(), "peak_device_mb": gpu_memory_mb()}

    def images(self, paths: list[str]) -> None:
        """Set the images to cycle through."""
        self._paths, self._sources = paths, {}

    def warm(self, batch: int, limit_s: float, least: int = 1) -> Warmup:
        """Warm up at a batch size, with at least so many batches."""
        source = self._source(batch)
        return warm_up(
            lambda: time_batch(self.predictor, next(source)), limit_s=limit_s, least=least
        )

    def turn(
        self, batch: int, untimed: int, iterations: int, seconds: float | None
    ) -> list[list[int]]:
        """Measure one turn; (N, 7) ns, see `stages.measure`."""
        stamps = measure(
            self.predictor,
            self._source(batch),
            iterations=iterations,
            untimed=untimed,
            seconds=seconds,
        )
        rows: list[list[int]] = stamps.tolist()
        return rows

    def rate(self, batch: int, rate: float, seconds: float) -> FixedRate:
        """Serve at a fixed rate, images per second."""
        source = self._source(batch)

        def run() -> None:
            time_batch(self.predictor, next(source))

        run()
        return at_rate(run, rate=rate, batch=batch, seconds=seconds)

    def outputs(self, paths: list[str], batch: int) -> Outputs:
        """Return values and, where they can be had, features of images.

        The last batch is filled up with the first images: INT8 scales that are taken from a batch
        make results depend on its mates, so every batch has the size that is measured.
        """
        backend = self.predictor.backend
        inputs = np.stack([self.predictor.preprocess(path) for path in paths])
        values: list[float] = []
        for start in range(0, len(inputs), batch):
            rows = np.arange(start, start + batch) % len(inputs)
            values += backend.run(inputs[rows])[0].tolist()
        features = features_of(self.system, backend, inputs, batch)
        return Outputs(values[: len(inputs)], None if features is None else features.tolist())

    def values(self, paths: list[str]) -> list[float | None]:
        """Predict images one by one; None where one cannot be read."""
        found: list[float | None] = []
        for path in paths:
            try:
                found.append(self.predictor.predict(path).value)
            except ImageError:
                found.append(None)
        return found

    def close(self) -> None:
        """Free the model."""
        self.predictor.close()

    def _source(self, batch: int) -> Iterator[list[str]]:
        return self._sources.setdefault(batch, batches(self._paths, batch))
