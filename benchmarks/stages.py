"""Time the stages of a prediction, batch by batch, and summarise without clipping anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from numclip_runtime import Predictor
from numclip_runtime.preprocess import load_rgb, to_input

STAGES = ("decode", "preprocess", "inference", "postprocess")
TOTAL = "total"

Times: TypeAlias = npt.NDArray[np.float64]  # (N,) wall time of each batch, ms


@dataclass(frozen=True)
class Summary:
    """Statistics of one stage over all timed batches, ms per batch."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float
    n: int  # timed batches

    @classmethod
    def of(cls, times: Times) -> Summary:
        """Summarise (N,) times in ms; percentiles interpolate linearly, nothing is left out."""
        p50, p90, p95, p99 = np.percentile(times, [50, 90, 95, 99]).tolist()
        return cls(p50, p90, p95, p99, float(times.max()), float(times.mean()), len(times))


@dataclass(frozen=True)
class Timings:
    """Wall times of N batches of one size."""

    batch: int  # images per batch
    stages: Mapping[str, Times]  # each of STAGES, then TOTAL: (N,) ms

    @classmethod
    def from_stamps(cls, stamps: npt.NDArray[np.int64], *, batch: int) -> Timings:
        """Build from clock readings (N, 5) in ns: start of a batch, then the end of each stage."""
        spans = np.diff(stamps, axis=1) / 1e6  # (N, 4) ms
        total = (stamps[:, -1] - stamps[:, 0]) / 1e6  # (N,) ms
        return cls(batch, dict(zip(STAGES, spans.T, strict=True)) | {TOTAL: total})

    @property
    def summaries(self) -> dict[str, Summary]:
        """One summary per stage, and of the total."""
        return {stage: Summary.of(times) for stage, times in self.stages.items()}

    @property
    def throughput_img_s(self) -> float:
        """Images per second over all timed batches, one batch after the other."""
        total = self.stages[TOTAL]
        return self.batch * len(total) / (float(total.sum()) / 1e3)


@dataclass(frozen=True)
class Row:
    """One measured combination of model, backend and batch size."""

    model: str  # file name, without its folder
    sha256: str  # of the model file
    backend: str  # "onnxruntime", "torch"
    provider: str  # what really executed
    precision: str  # "fp32", "fp16" or "int8"
    batch: int  # images per batch
    threads: int | None  # CPU threads inside one inference; None: the backend's choice
    timings: Timings

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; times in ms per batch."""
        plain = {name: value for name, value in vars(self).items() if name != "timings"}
        stages = {stage: asdict(summary) for stage, summary in self.timings.summaries.items()}
        return plain | {
            "stages_ms": stages,
            "throughput_img_s": self.timings.throughput_img_s,
        }


def batches(paths: Sequence[str], batch: int) -> Iterator[list[str]]:
    """Yield batches of paths for ever, each going on where the last one ended."""
    endless = itertools.cycle(paths)
    while True:
        yield list(itertools.islice(endless, batch))


def time_batch(predictor: Predictor, paths: Sequence[str]) -> tuple[int, ...]:
    """Predict one batch; return the clock, ns, at its start and after each stage, (5,).

    Raises:
        ImageError: if an image cannot be read.
    """
    start = perf_counter_ns()
    images = [load_rgb(path) for path in paths]
    decoded = perf_counter_ns()
    spec = predictor.metadata.preprocessing
    inputs = np.stack([to_input(image, spec) for image in images])  # (B, 3, H, W)
    preprocessed = perf_counter_ns()
    values, bin_probs = predictor.backend.run(inputs)  # (B,), (B, K); returns when computed
    inferred = perf_counter_ns()
    predictor.postprocess(values, bin_probs)
    return start, decoded, preprocessed, inferred, perf_counter_ns()


def measure(
    predictor: Predictor,
    paths: Sequence[str],
    *,
    batch: int,
    iterations: int,
    warmup: int,
    tick: Callable[[], None] = lambda: None,
) -> Timings:
    """Predict `warmup` untimed and then `iterations` timed batches.

    Args:
        predictor: Model to measure; stays open.
        paths: Image files; consecutive batches take different ones, as far as they reach.
        batch: Images per batch.
        iterations: Timed batches, at least 1.
        warmup: Untimed batches before them.
        tick: Called after each batch, outside the timed span.

    Raises:
        ImageError: if an image cannot be read.
    """
    source = batches(paths, batch)
    for _ in range(warmup):
        time_batch(predictor, next(source))
        tick()
    stamps = np.empty((iterations, len(STAGES) + 1), np.int64)
    for i in range(iterations):
        stamps[i] = time_batch(predictor, next(source))
        tick()
    return Timings.from_stamps(stamps, batch=batch)
