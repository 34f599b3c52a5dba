"""Accuracy beside speed: the mean absolute error of each competitor on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from numclip_runtime import Task


@dataclass(frozen=True)
class Labelled:
    """Labelled images, as for numclip-eval."""

    paths: list[str]
    labels: list[float]  # label units

    @classmethod
    def read(cls, source: Path, task: Task) -> Labelled:
        """Read a CSV file, or what else numclip-eval reads.

        Raises:
            UsageError: naming file and line, if a label or an image file is missing.
        """
        from numclip.data.readers import read_samples

        samples = read_samples(source, task)
        return cls([str(sample.path) for sample in samples], [s.label for s in samples])

    def mae(self, values: Sequence[float | None], unit: str) -> dict[str, Any] | None:
        """Return the mean absolute error in label units; an image without a value is counted.

        Args:
            values: One per image; None where it could not be read.
            unit: Of the labels.
        """
        errors = [
            abs(value - label)
            for value, label in zip(values, self.labels, strict=True)
            if value is not None
        ]
        if not errors:
            return None
        return {
            "mae": fmean(errors),
            "unit": unit,
            "images": len(errors),
            "failed": len(values) - len(errors),
        }
