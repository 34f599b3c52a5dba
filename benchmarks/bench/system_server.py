"""The process of one system: it loads, predicts once, and then answers commands.

Each command is one line of JSON on stdin, each answer one line on stdout. Alone in its process, a
system shares neither threads nor memory with the others: threads of an idle onnxruntime session
that wait by spinning made the next one in the same process look twice as slow.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from time import perf_counter_ns
from typing import IO, Any

import numpy as np

from benchmarks.bench.machine.environment import loaded_versions
from benchmarks.bench.stages import batches, measure, time_batch
from benchmarks.competitor import Competitor, precision_of
from benchmarks.features import features_of
from benchmarks.memory_use import device_mb, peak_host_mb
from benchmarks.rate import at_rate
from benchmarks.warmup import warm_up
from numclip_runtime import ImageError, NumclipError, Predictor
from numclip_runtime.backends import Backend


class Server:
    """An opened competitor, and one method per command."""

    def __init__(self, competitor: Competitor, backend: Backend) -> None:
        self.competitor = competitor
        self.predictor = Predictor(backend)
        self._sources: dict[int, Iterator[list[str]]] = {}
        self._paths: list[str] = []

    def about(self) -> dict[str, Any]:
        """Say what really runs; after the first prediction, with which all is loaded."""
        backend = self.predictor.backend
        return {
            "backend": backend.name,
            "provider": backend.provider,
            "device": backend.device,
            "precision": precision_of(self.competitor, backend.metadata),
            "unit": backend.metadata.task.unit,
            "task": backend.metadata.task.to_dict(),
            "notes": list(backend.notes),
            "versions": loaded_versions(),
        }

    def memory(self) -> dict[str, float | None]:
        """Return the peaks so far, MB."""
        return {"peak_host_mb": peak_host_mb(), "peak_device_mb": device_mb()}

    def images(self, paths: list[str]) -> None:
        """Set the images to go round."""
        self._paths, self._sources = paths, {}

    def warm(self, batch: int, limit_s: float) -> dict[str, Any]:
        """Warm up at a batch size."""
        source = self._source(batch)
        done = warm_up(lambda: time_batch(self.predictor, next(source)), limit_s=limit_s)
        return done.to_dict()

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

    def rate(self, batch: int, rate: float, seconds: float) -> dict[str, Any]:
        """Serve at a fixed rate."""
        source = self._source(batch)
        time_batch(self.predictor, next(source))
        return at_rate(
            lambda: time_batch(self.predictor, next(source)),
            rate=rate,
            batch=batch,
            seconds=seconds,
        )

    def outputs(self, paths: list[str], batch: int, to: str) -> None:
        """Write values (N,) and, where they can be had, features (N, D) of images to an .npz file.

        The last batch is filled up with the first images: INT8 scales that are taken from a batch
        make results depend on its mates, so every batch has the size that is measured.
        """
        inputs = np.stack([self.predictor.preprocess(path) for path in paths])
        count = len(inputs)
        found = np.empty(count, np.float32)
        for start in range(0, count, batch):
            rows = np.arange(start, start + batch) % count
            kept = min(batch, count - start)
            found[start : start + kept] = self.predictor.backend.run(inputs[rows])[0][:kept]
        arrays = {"values": found}
        features = features_of(self.competitor, self.predictor.backend, inputs, batch)
        if features is not None:
            arrays["features"] = features
        np.savez(to, **arrays)  # type: ignore[arg-type]

    def values(self, paths: list[str]) -> list[float | None]:
        """Predict images one by one; None where one cannot be read."""
        found: list[float | None] = []
        for path in paths:
            try:
                found.append(self.predictor.predict(path).value)
            except ImageError:
                found.append(None)
        return found

    def _source(self, batch: int) -> Iterator[list[str]]:
        return self._sources.setdefault(batch, batches(self._paths, batch))


COMMANDS = ("memory", "images", "warm", "turn", "rate", "outputs", "values")


def main() -> None:
    """Serve until stdin ends."""
    # Libraries print to stdout as well: what is not an answer goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        text, image = sys.argv[1:]
        try:
            competitor = Competitor.from_dict(json.loads(text))
            start = perf_counter_ns()
            backend = competitor.open()
            opened = perf_counter_ns()
            server = Server(competitor, backend)
            server.predictor.predict(image)
            first = {
                "open_s": (opened - start) / 1e9,
                "predict_s": (perf_counter_ns() - opened) / 1e9,
            }
            _answer(answers, server.about() | server.memory() | first)
        except NumclipError as error:
            _fail(answers, error)
            return
        for line in sys.stdin:
            asked = json.loads(line)
            name = asked.pop("do")
            assert name in COMMANDS, name
            try:
                _answer(answers, getattr(server, name)(**asked))
            except NumclipError as error:
                _fail(answers, error)
        server.predictor.close()


def _answer(answers: IO[str], result: object) -> None:
    print(json.dumps({"result": result}), file=answers, flush=True)


def _fail(answers: IO[str], error: NumclipError) -> None:
    said = {"error": str(error), "type": type(error).__name__}
    print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
