"""L2RCLIP's pairwise loss between images and bin texts: pull to one's own, push from the far."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12  # below this a squared distance has no gradient: sqrt is infinitely steep at 0


def pairwise_ordinal(
    image_features: Tensor, text_features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the tightness and diversity of image features around the bins' text features.

    Their sum is the loss. A pair weighs (|y - k| - min) / max over all pairs of the batch, the
    maximum taken before min is subtracted, as in the released code; min is 0 unless the batch
    and bins are disjoint, which labels in [0, K) exclude.

    Args:
        image_features: (B, D) float.
        text_features: (K, D) float, K at least 2.
        labels: (B,) int64 bin indices in [0, K).

    Returns:
        Tightness, the mean squared distance of an image to its own text; and diversity, minus the
        mean over all (B, K) pairs of distance times weight.

    Source:
        L2RCLIP (arXiv 2306.13856), cross-modal ordinal pairwise loss, stage 2 of its released
        losses.
    """
    bins = torch.arange(len(text_features), device=labels.device)
    weights = (labels[:, None] - bins).abs().to(image_features.dtype)  # (B, K)
    weights = weights / weights.max()
    squared = (image_features[:, None] - text_features).square().sum(-1)  # (B, K)
    tightness = squared.gather(1, labels[:, None]).mean()
    return tightness, -(squared.clamp_min(EPS).sqrt() * weights).mean()
