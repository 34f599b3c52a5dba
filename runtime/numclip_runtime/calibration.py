"""Calibration of a model's probabilities and intervals, fitted on labelled images.

The interval of an image is `value - h` to `value + h`, clipped to the task's range, where
`h = factor * scale`. The scale depends on the image: it is large if the bin probabilities lie far
from the value. The factor is a quantile of |label - value| / scale over the calibration images.

Of images in groups, such as several photos of each person, it is a quantile over groups: the
coverage then holds for an image of a new group. G groups can promise G / (G + 1) at most.

Source:
    Split conformal prediction with a normalised score: Lei et al., "Distribution-free predictive
    inference for regression" (arXiv 1604.04173), sections 2.2 and 5.2. Groups: Lee, Barber and
    Willett, "Distribution-free inference with hierarchical data" (arXiv 2306.06342).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from numclip_runtime.errors import UsageError
from numclip_runtime.fields import read_fields, shown
from numclip_runtime.task import LARGEST_NUMBER, Task

DEFAULT_COVERAGE = 0.9  # of the interval that a Prediction carries

Array = npt.NDArray[np.float64]
# The number of a bin that distances are measured to: `Task.bin_values`, or the middle of its edges
BinNumbers = Literal["values", "centres"]


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
    images: int  # number of images that the factors were fitted on
    # The rest is absent in files older than the field, and if it has its default.
    # Of the scale. Files older than the field measured from centres, also where bins are classes:
    # their factors were fitted with that scale, and belong to it.
    measured_from: BinNumbers = "centres"
    groups: int = 0  # the factors are quantiles over so many groups; 0: over single images

    def __post_init__(self) -> None:
        for name in ("temperature", "scale_floor"):
            if not 1 / LARGEST_NUMBER <= getattr(self, name) <= LARGEST_NUMBER:
                limits = f"{1 / LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}"
                raise UsageError(f"{name} must be above 0 and finite ({limits}).")
        for name in ("images", "groups"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0.")
        if self.measured_from not in get_args(BinNumbers):
            raise UsageError(f"unknown measured_from {shown(self.measured_from)}.")
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
        half = factor * scales(values, bin_probs, task, self.scale_floor, self.measured_from)
        ends = np.stack([values - half, values + half], axis=1)  # (N, 2)
        low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
        return ends.clip(low, high)

    def promised(self, coverage: float) -> float:
        """Return the share of new images, of new groups if there are groups, that is promised.

        The stated coverage, but G groups promise G / (G + 1) at most: the next group may be unlike
        all of them with a chance of 1 / (G + 1).
        """
        return min(coverage, self.groups / (self.groups + 1)) if self.groups else coverage

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; older numclips read it where the new fields are default."""
        plain = asdict(self)
        for name in ("measured_from", "groups"):
            if plain[name] == getattr(type(self), name):
                del plain[name]
        return plain

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


def bin_numbers(task: Task) -> Array:
    """Return `Task.bin_values` in label units, (K,)."""
    numbers: Array = np.array(task.bin_values) + task.label_offset
    return numbers


def scales(
    values: npt.NDArray[np.floating[Any]],
    bin_probs: npt.NDArray[np.floating[Any]],
    task: Task,
    floor: float,
    measured_from: BinNumbers = "values",
) -> Array:
    """Return the scale of N predictions: sqrt(sum_k p_k (c_k - value)^2 + floor^2).

    Args:
        values: (N,) label units.
        bin_probs: (N, K).
        task: Gives the bins.
        floor: Label units.
        measured_from: The numbers c_k: the bins' values, or their centres. They differ where bins
            hold whole numbers: 3 and 3.5 for the class 3.

    Returns:
        (N,) float64, label units, at least `floor`.
    """
    numbers = bin_numbers(task) if measured_from == "values" else bin_centres(task)
    distance = numbers - values[:, None]  # (N, K)
    spread: Array = (bin_probs * distance**2).sum(1)
    return np.sqrt(spread + floor**2)
