"""Conformal quantiles of scores: over single images, and over groups of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def conformal_quantile(scores: npt.NDArray[np.floating], coverage: float) -> float:
    """Return the ceil((n + 1) * coverage)-th smallest of n scores; infinite where n is too small.

    A new score drawn like these is at most that with probability of at least `coverage`.
    """
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def group_quantile(
    scores: npt.NDArray[np.floating], groups: Sequence[str], coverage: float
) -> float:
    """Return the quantile of n scores in G groups; infinite where G is too small.

    A score of group g has the mass 1 / ((G + 1) n_g), of the n_g scores of its group; infinity has
    1 / (G + 1). A new score of a new group, drawn like these groups, is at most the quantile with
    probability of at least `coverage`. Groups of one score each: `conformal_quantile`.

    Source:
        Lee, Barber and Willett, "Distribution-free inference with hierarchical data"
        (arXiv 2306.06342), hierarchical conformal prediction.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    mass = np.cumsum(1 / sizes[group[order]])  # times G + 1
    needed = (len(names) + 1) * coverage
    place = int(np.searchsorted(mass, needed * (1 - 1e-12) - 1e-9))  # a sum of 1 / n_g is rounded
    return float(scores[order[place]]) if place < len(scores) else math.inf


def factor_of(
    scores: npt.NDArray[np.floating], coverage: float, groups: Sequence[str] = ()
) -> float:
    """Return the factor of a coverage: a quantile of n scores, over groups if there are any.

    G groups promise G / (G + 1) at most. Beyond, the factor is the largest score: it holds the
    stated share of the images of these groups, and promises G / (G + 1) for a new one. Infinite
    where the images themselves are too few.
    """
    single = conformal_quantile(scores, coverage)
    if not groups or single == math.inf:
        return single
    return min(group_quantile(scores, groups, coverage), float(np.max(scores)))
