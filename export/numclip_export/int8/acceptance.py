"""Acceptance of an INT8 file: as accurate as its budget demands, and faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numclip.evaluation.timing import images_per_run, lower_quartiles_ms
from numclip_export.parity import BUDGETS, ParityError, Run
from numclip_runtime import Task, load
from numclip_runtime.metadata import InputKind
from numclip_runtime.preprocess import FloatArray, InputArray


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
        """Whether the MAE stays within budget."""
        return self.mae_int8 <= self.mae_fp32 + self.tolerance

    def difference(self, task: Task) -> str:
        """Return both figures, for people."""
        return (
            f"on {self.images} labelled images its MAE is {self.mae_int8:.3g} {task.unit} against "
            f"{self.mae_fp32:.3g} in float32 (allowed: {self.tolerance:.3g} more)"
        )


@dataclass(frozen=True)
class Speed:
    """Latencies of a batch, interleaved on this machine; see `measure_speed`."""

    backend: str  # "onnxruntime CPUExecutionProvider"
    baseline: str  # precision of the file it must beat
    baseline_ms: float
    int8_ms: float
    batch: int = 1  # images

    @property
    def passed(self) -> bool:
        """Whether INT8 is faster."""
        return self.int8_ms < self.baseline_ms

    def refusal(self) -> str:
        """Why the file is not kept, with both figures."""
        return (
            f"it is no faster here: {self.int8_ms:.2f} ms against {self.baseline_ms:.2f} ms in "
            f"{self.baseline} ({self.backend}, {images_per_run(self.batch)}); use the "
            f"{self.baseline} file"
        )


def measure_accuracy(
    fp32: Run, int8: Run, images: tuple[InputArray, InputArray], labels: FloatArray, task: Task
) -> Accuracy:
    """Run both models on labelled images, one by one.

    Args:
        fp32: Runs the float32 model.
        int8: Runs the INT8 model of the same checkpoint.
        images: (M, ...) the same images, preprocessed for each model.
        labels: (M,) true numbers, label units.
        task: Gives the label range.
    """
    before, after = (
        float(np.abs(np.array([run(image[None])[0][0] for image in column]) - labels).mean())
        for run, column in zip((fp32, int8), images, strict=True)
    )
    return Accuracy(len(labels), before, after, BUDGETS["int8"].value * task.label_range)


def measure_speed(
    baseline: Path, int8: Path, images: Callable[[InputKind], InputArray], *, batch: int = 1
) -> Speed:
    """Time both files interleaved (A B A B), inputs rotated, each as it runs by default.

    One thread each: with more, other load on the machine slows INT8, whose steps are shorter, more
    than float32.

    Args:
        baseline: File to beat.
        int8: File to accept or refuse.
        images: Returns the images, (N, ...), in the form of a kind of input.
        batch: Images per run.
    """
    with load(baseline, threads=1, bf16=False) as slow, load(int8, threads=1) as fast:
        before_ms, after_ms = lower_quartiles_ms(
            [(each.backend.run, images(each.metadata.input)) for each in (slow, fast)], batch=batch
        )
        name = f"{fast.backend.name} {fast.backend.provider}"
        return Speed(name, slow.metadata.precision, before_ms, after_ms, batch)
