"""Losses of NumCLIP: cross-modal ranking (FCRC) both ways, and L1 on the number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TARGET_GAIN = 10.0  # sharpness of the text-to-image target distribution


def fcrc_image_to_text(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank texts for each image: cross-entropy on logits weighted by label distance.

    A negative k of an image of bin y gets the weight (K - 1) |y - k| / sum_j |y - j|, on its
    *logit*, as in the released code.

    Args:
        logits: (B, K) float.
        labels: (B,) int64 bin indices in [0, K).

    Returns:
        Scalar, mean over the batch.

    Source:
        NumCLIP (arXiv 2408.03574), fine-grained cross-modal ranking-based contrastive loss.
    """
    bins = logits.shape[1]
    distance = (labels[:, None] - torch.arange(bins, device=labels.device)).abs().to(logits.dtype)
    weights = distance * (bins - 1) / distance.sum(1, keepdim=True).clamp_min(1)  # (B, K)
    weights = torch.where(distance == 0, 1.0, weights)
    return F.cross_entropy(logits * weights, labels)


def fcrc_text_to_image(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank images for each bin's text: KL divergence on weighted logits over the batch.

    Args:
        logits: (B, K) float.
        labels: (B,) int64 bin indices in [0, K).

    Returns:
        Scalar, summed over bins present in the batch, divided by their number.

    Source:
        NumCLIP (arXiv 2408.03574), text-to-image half, as released: the mean negative weight is
        (K - 1) / (number of negatives), so it depends on the batch size.
    """
    bins = logits.shape[1]
    ranks = torch.arange(bins, device=labels.device)
    distance = (ranks[:, None] - labels).abs().to(logits.dtype)  # (K, B)
    positive = distance == 0
    present = positive.any(1)  # (K,)
    target = (positive * TARGET_GAIN).to(logits.dtype).softmax(1)
    weights = distance * (bins - 1) / distance.sum(1, keepdim=True).clamp_min(1)
    weights = torch.where(positive, 1.0, weights)
    log_probs = (logits.T * weights).log_softmax(1)  # (K, B)
    divergence = F.kl_div(log_probs, target, reduction="none").sum(1)  # (K,)
    return divergence[present].sum() / present.sum()
