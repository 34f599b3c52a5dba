"""Whether an INT8 file earns its place: as accurate as the budget says, and faster."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from numclip_export.parity import BUDGETS, ParityError
from numclip_runtime import Predictor, load
from numclip_runtime.preprocess import FloatArray

ROUNDS = 40  # of one run each, in turns
WARMUP = 5
SECONDS = 10.0  # at most, for large models


class NotWorthItError(ParityError):
    """The INT8 file is less accurate than its budget allows, or no faster."""


@dataclass(frozen=True)
class Accuracy:
    """Errors against the true labels, of the float32 file and the INT8 file."""

    images: int
    mae_fp32: float  # label units
    mae_int8: float  # label units
    tolerance: float  # by how much the MAE may grow, label units

    @property
    def passed(self) -> bool:
        """Tell whether the MAE stays within budget."""
        return self.mae_int8 <= self.mae_fp32 + self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Speed:
    """Median latencies of one image, measured in turns on this machine."""

    backend: str  # "onnxruntime CPUExecutionProvider"
    baseline: str  # precision of the file it must beat
    baseline_ms: float
    int8_ms: float

    @property
    def passed(self) -> bool:
        """Tell whether INT8 is faster."""
        return self.int8_ms < self.baseline_ms

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {**asdict(self), "passed": self.passed}


def measure_accuracy(fp32: Path, int8: Path, images: FloatArray, labels: FloatArray) -> Accuracy:
    """Run both files on labelled images.

    Args:
        fp32: float32 ONNX file.
        int8: INT8 ONNX file of the same checkpoint.
        images: (N, 3, H, W) float32, preprocessed.
        labels: (N,) true numbers, label units.
    """
    errors = []
    for path in (fp32, int8):
        with load(path) as predictor:
            values = [predictor.backend.run(image[None])[0][0] for image in images]
        errors.append(float(np.abs(np.array(values) - labels).mean()))
        label_range = predictor.metadata.task.label_range
    before, after = errors
    return Accuracy(len(images), before, after, BUDGETS["int8"].value * label_range)


def measure_speed(baseline: Path, int8: Path, images: FloatArray) -> Speed:
    """Time both files in turns (A B A B), one image per run, inputs rotated."""
    with load(baseline) as slow, load(int8) as fast:
        times: dict[Predictor, list[float]] = {slow: [], fast: []}
        started = time.perf_counter()
        for count in range(WARMUP + ROUNDS):
            for predictor, seconds in times.items():
                image = images[count % len(images)][None]
                before = time.perf_counter()
                predictor.backend.run(image)
                seconds.append(time.perf_counter() - before)
            if count > 2 * WARMUP and time.perf_counter() - started > SECONDS:
                break
        before_ms, after_ms = (1e3 * median(seconds[WARMUP:]) for seconds in times.values())
        name = f"{fast.backend.name} {fast.backend.provider}"
        return Speed(name, slow.metadata.precision, round(before_ms, 3), round(after_ms, 3))
