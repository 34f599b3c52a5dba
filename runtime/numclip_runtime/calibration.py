"""Calibration of a model's probabilities and intervals, fitted on labelled images.

The interval of an image is `value - h` to `value + h`, clipped to the task's range, where
`h = factor * scale`. The scale depends on the image: it is large if the bin probabilities lie far
from the value. The factor is a quantile of |label - value| / scale over the calibration images.

Source:
    Split conformal prediction with a normalised score: Lei et al., "Distribution-free predictive
    inference for regression" (arXiv 1604.04173), sections 2.2 and 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from numclip_runtime.errors import UsageError
from numclip_runtime.fields import read_fields
from numclip_runtime.task import LARGEST_NUMBER, Task

DEFAULT_COVERAGE = 0.9  # of the interval that a Prediction carries

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The parameters that `numclip-train` fits on the validation images once the weights are final.

    Raises:
        UsageError: if a field is out of range.
    """

    temperature: float  # bin_probs = softmax(logits / temperature); export folds it into the graph
    scale_floor: float  # keeps the scale above 0 if the bins are over-confident, label units
    coverages: tuple[float, ...]  # stated shares of labels inside the interval, 0 to 1, ascending
    factors: tuple[float, ...]  # half-width / scale, one per coverage
    images: int  # number of images that it was fitted on

    def __post_init__(self) -> None:
        for name in ("temperature", "scale_floor"):
            if not 1 / LARGEST_NUMBER <= getattr(self, name) <= LARGEST_NUMBER:
                limits = f"{1 / LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}"
                raise UsageError(f"{name} must be above 0 and finite ({limits}).")
        if self.images < 0:
            raise UsageError("images must be at least 0.")
        if len(self.coverages) != len(self.factors):
            raise UsageError(
                f"{len(self.coverages)} coverages need as many factors, got {len(self.factors)}."
            )
        if list(self.coverages) != sorted(set(self.coverages)) or not all(
            0 < coverage < 1 for coverage in self.coverages
        ):
            raise UsageError("coverages must ascend, each between 0 and 1.")
        if list(self.factors) != sorted(self.factors) or not all(
            0 <= factor <= LARGEST_NUMBER for factor in self.factors
        ):
            raise UsageError("factors must not descend, each finite and at least 0.")

    def intervals(
        self,
        values: npt.NDArray[np.floating[Any]],
        bin_probs: npt.NDArray[np.floating[Any]],
        task: Task,
        coverage: float = DEFAULT_COVERAGE,
    ) -> Array | None:
        """Return the intervals of N predictions.

        Args:
            values: (N,) label units.
            bin_probs: (N, K), rows sum to 1, temperature applied.
            task: Gives the bins and the range.
            coverage: One of `coverages`.

        Returns:
            (N, 2) float64, low and high in label units, within the task's range; None if this
            coverage was not fitted (too few images, see `numclip.evaluation.calibration`).
        """
        if coverage not in self.coverages:
            return None
        factor = self.factors[self.coverages.index(coverage)]
        half = factor * scales(values, bin_probs, task, self.scale_floor)
        ends = np.stack([values - half, values + half], axis=1)  # (N, 2)
        low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
        return ends.clip(low, high)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Build from plain data (lists become tuples).

        Raises:
            UsageError: if a field is missing, unknown, of another type or out of range.
        """
        return read_fields(cls, data, "calibration")


def bin_centres(task: Task) -> Array:
    """Return the middle of each bin, (K,), label units."""
    edges = np.array(task.bin_edges)
    centres: Array = (edges[:-1] + edges[1:]) / 2 + task.label_offset
    return centres


def scales(
    values: npt.NDArray[np.floating[Any]],
    bin_probs: npt.NDArray[np.floating[Any]],
    task: Task,
    floor: float,
) -> Array:
    """Return the scale of N predictions: sqrt(sum_k p_k (c_k - value)^2 + floor^2).

    Args:
        values: (N,) label units.
        bin_probs: (N, K); c_k are the bin centres.
        task: Gives the bins.
        floor: Label units.

    Returns:
        (N,) float64, label units, at least `floor`.
    """
    distance = bin_centres(task) - values[:, None]  # (N, K)
    spread: Array = (bin_probs * distance**2).sum(1)
    return np.sqrt(spread + floor**2)
