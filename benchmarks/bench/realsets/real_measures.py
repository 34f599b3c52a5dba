"""Measures of predictions on a real image set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from numclip_runtime.calibration import DEFAULT_COVERAGE

if TYPE_CHECKING:
    from numclip.evaluation.predictions import Predictions


def measures(found: Predictions, groups: list[str]) -> dict[str, Any]:
    """Return MAE, RMSE, Spearman's correlation; coverage and width of the 90 % intervals.

    Each group weighs the same in the coverage, as it does where intervals are fitted: intervals
    are for an image of a group that is drawn first.

    Args:
        found: Predictions of N images.
        groups: Their groups.
    """
    from numclip.evaluation.metrics import covered, validation_metrics

    errors = validation_metrics(found)
    result: dict[str, Any] = {
        "mae": round(errors["mae"], 4),
        "rmse": round(errors["rmse"], 4),
        "spearman": round(spearman(found.values, found.labels), 4),
    }
    if found.calibration is None or DEFAULT_COVERAGE not in found.calibration.coverages:
        return result
    ends = found.intervals(DEFAULT_COVERAGE)
    inside = covered(ends, found.labels)
    names = np.array(groups)
    by_group = {name: rounded(inside[names == name]) for name in sorted(set(groups))}
    return result | {
        "coverage": rounded(np.array(list(by_group.values()))),
        "coverage_by_group": by_group,
        "interval_width": rounded(ends[:, 1] - ends[:, 0]),
    }


def spearman(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; 0 where one is constant."""
    a, b = (_ranks(numbers) for numbers in (first, second))
    spread = float(a.std() * b.std())
    return 0.0 if spread == 0 else float(((a - a.mean()) * (b - b.mean())).mean() / spread)


def _ranks(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[which]
    return ranks


def rounded(numbers: npt.NDArray[Any]) -> float:
    """Return the mean to four digits."""
    return round(float(np.mean(numbers)), 4)
