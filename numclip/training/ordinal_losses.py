"""Losses of whole distributions over ordered numbers: soft targets, and the ranked score."""

from __future__ import annotations

import torch
from torch import Tensor

from numclip.model.heads import Distribution

# Standard deviation of a soft target: 2 years of a range of 100, at least half a step of the grid
WIDTH_SHARE = 0.02


def soft_targets(grid: Tensor, labels: Tensor, width: float | None = None) -> Tensor:
    """Return a Gaussian around each label, on the grid: t_m ~ exp(-(g_m - y)^2 / (2 width^2)).

    Args:
        grid: (M,) ascending numbers.
        labels: (B,) in the grid's units.
        width: Standard deviation, in the grid's units; None: 2 % of the grid's range, at least
            half a step.

    Returns:
        (B, M), rows sum to 1.

    Source:
        Gao et al., DLDL (arXiv 1611.01731), section 3.3; with the squared distance as penalty this
        is SORD, Diaz and Marathe, "Soft labels for ordinal regression" (CVPR 2019), equation 2.
    """
    sigma = target_width(grid) if width is None else width
    return (-((grid - labels[:, None]) ** 2) / (2 * sigma**2)).softmax(1)


def target_width(grid: Tensor) -> float:
    """Return the standard deviation of soft targets on a grid, in its units."""
    span = float(grid[-1] - grid[0])
    return max(WIDTH_SHARE * span, span / (len(grid) - 1) / 2)


def soft_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Return -sum_m t_m log softmax(scores)_m, mean over the batch.

    Args:
        scores: (B, M).
        target: (B, M), rows sum to 1.
    """
    return -(target * scores.log_softmax(1)).sum(1).mean()


def ranked_probability_score(scores: Tensor, target: Tensor) -> Tensor:
    """Return sum_k (F_k - T_k)^2 of the cumulated probabilities, k = 1 .. K - 1, batch mean.

    It is proper: its expectation is smallest at the true probabilities. It respects the order: a
    probability costs more the farther it lies from the truth. On a grid of step h, h times it is
    the continuous ranked probability score in label units.

    Args:
        scores: (B, K) float; softmax gives the probabilities.
        target: (B, K), rows sum to 1; one-hot of the true bin.

    Source:
        Epstein, "A scoring system for probability forecasts of ranked categories" (1969), without
        its division by K - 1; proper: Murphy (1969).
    """
    excess = (scores.softmax(1) - target).cumsum(1)[:, :-1]  # (B, K - 1)
    return excess.square().sum(1).mean()


def two_points(grid: Tensor, labels: Tensor) -> Tensor:
    """Return each label as a mixture of the two points beside it, whose mean it is.

    Args:
        grid: (M,) ascending numbers.
        labels: (B,); outside the grid, its end.

    Returns:
        (B, M), rows sum to 1; one-hot where the label is a point.
    """
    place = torch.searchsorted(grid, labels.contiguous(), right=True).clamp(1, len(grid) - 1)
    low, high = grid[place - 1], grid[place]
    upper = ((labels - low) / (high - low)).clamp(0, 1)
    target = torch.zeros(len(labels), len(grid), dtype=grid.dtype, device=grid.device)
    target.scatter_(1, (place - 1)[:, None], (1 - upper)[:, None])
    return target.scatter_(1, place[:, None], upper[:, None])


def distribution_loss(
    head: Distribution, scores: Tensor, labels: Tensor, *, width: float | None, ranked: bool
) -> Tensor:
    """Return the loss of a distribution's scores.

    Args:
        head: Gives the grid.
        scores: (B, M).
        labels: (B,) without label offset.
        width: See `soft_targets`.
        ranked: The continuous ranked probability score, label units, in place of the cross-entropy
            to a soft target.
    """
    scores, labels = scores.float(), labels.to(head.grid.dtype)
    if not ranked:
        return soft_cross_entropy(scores, soft_targets(head.grid, labels, width))
    step = float(head.grid[-1] - head.grid[0]) / (len(head.grid) - 1)
    return step * ranked_probability_score(scores, two_points(head.grid, labels))
