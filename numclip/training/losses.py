"""Losses of NumCLIP: cross-modal ranking (FCRC) both ways, and the plain losses they refine.

A negative pair of image and text weighs by the distance between its bins, in one of three ways,
`mode`:

- "released": the weight multiplies the *logit*, as in the released code. With a negative logit the
  effect is reversed: the farther the pair, the *less* it costs.
- "corrected": the weight multiplies the *exponential* of the logit (log w is added to the logit),
  so a far pair costs more whatever the sign, and adding a constant to all logits changes nothing.
  Negative weights average 1 in both directions: where all negatives have the same logit, the
  loss is the plain one. The released text-to-image weights average (K - 1) / (number of
  negatives), about 0.15 in a batch of 32 with 5 bins, so that loss depends on the batch size.
- "plain": all weights 1, the losses of OrdinalCLIP (arXiv 2206.02338).

Weights depend on the true bin, so neither weighted loss is a proper score: where an image is
uncertain, the probabilities that cost least are not the true ones, and lie nearer the middle bin.
Image to text, of 5 bins (see the test of it):

=====================  ==========================  ==========================  ====================
truth                  released                    corrected                   plain (proper)
=====================  ==========================  ==========================  ====================
.2 .2 .2 .2 .2         .139 .210 .303 .210 .139    .154 .218 .256 .218 .154    .2 .2 .2 .2 .2
.6 .3 .1 0 0, mean .5  .140 .698 .162, mean 1.02   .518 .379 .103, mean .586   .6 .3 .1, mean .5
=====================  ==========================  ==========================  ====================

So "corrected" pulls to the middle as well, about a sixth as far in the second row, and keeps the
right bin there, which "released" does not.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from numclip.model.heads import Distribution, Head, Probe
from numclip.model.numclip import Output
from numclip.training.config import RankingMode, TrainConfig
from numclip.training.ordinal_losses import distribution_loss, ranked_probability_score

Normalization = Literal["released", "num_negatives"]
TARGET_GAIN = 10.0  # sharpness of the text-to-image target distribution


def batch_losses(
    out: Output,
    labels: Tensor,
    bins: Tensor,
    config: TrainConfig,
    head: Head | None = None,
    label_offset: float = 0.0,
) -> dict[str, Tensor]:
    """Return the losses of a batch, and their weighted sum, "loss".

    The L1 loss of the number stands beside both FCRC losses; or, with the mode "rps", beside the
    ranked probability score of the bins in their place. A distribution has the cross-entropy to a
    soft target, or the ranked score; a probe the cross-entropy of the bins, or their ranked score.

    Args:
        out: The model's output for B images.
        labels: (B,) float32, label units.
        bins: (B,) int64.
        config: Gives mode and weights.
        head: The model's; None: one whose scores are the bins' logits.
        label_offset: The task's.
    """
    ranked = config.loss_mode == "rps"
    parts: dict[str, Tensor]
    if isinstance(head, Distribution):
        loss = distribution_loss(
            head, out.scores, labels - label_offset, width=config.target_width, ranked=ranked
        )
        parts = {"rps" if ranked else "cross_entropy": loss}
    elif config.loss_mode == "rps":
        one_hot = F.one_hot(bins, out.logits.shape[1])
        parts = {"rps": ranked_probability_score(out.logits, one_hot)}
    elif isinstance(head, Probe):
        parts = {"cross_entropy": F.cross_entropy(out.logits, bins)}
    else:
        parts = {
            "image_to_text": fcrc_image_to_text(out.logits, bins, config.loss_mode),
            "text_to_image": fcrc_text_to_image(out.logits, bins, config.loss_mode),
        }
    l1 = F.l1_loss(out.fine, labels)
    total = torch.stack(list(parts.values())).sum() + config.regression_weight * l1
    return parts | {"l1": l1, "loss": total}


def image_to_text_weights(labels: Tensor, num_bins: int) -> Tensor:
    """Return the weights of texts for each image: (K - 1) |y - k| / sum_j |y - j|, positives 1.

    Args:
        labels: (B,) int64 bin indices in [0, K).
        num_bins: K.

    Returns:
        (B, K) float32.
    """
    distance = (labels[:, None] - torch.arange(num_bins, device=labels.device)).abs().float()
    weights = distance * (num_bins - 1) / distance.sum(1, keepdim=True).clamp_min(1)
    return torch.where(distance == 0, 1.0, weights)


def text_to_image_weights(
    labels: Tensor, num_bins: int, norm: Normalization = "released"
) -> Tensor:
    """Return the weights of images for each bin: n |i - y_b| / sum_b' |i - y_b'|, positives 1.

    Args:
        labels: (B,) int64 bin indices in [0, K).
        num_bins: K.
        norm: n is K - 1 ("released") or the number of images of other bins ("num_negatives").

    Returns:
        (K, B) float32; all 1 for bins that are absent from the batch.
    """
    distance = (torch.arange(num_bins, device=labels.device)[:, None] - labels).abs().float()
    positive = distance == 0
    total = (~positive).sum(1, keepdim=True) if norm == "num_negatives" else num_bins - 1
    weights = distance * total / distance.sum(1, keepdim=True).clamp_min(1)
    return torch.where(positive | ~positive.any(1, keepdim=True), 1.0, weights)


def plain_image_to_text(logits: Tensor, labels: Tensor) -> Tensor:
    """Choose the text of each image: cross-entropy; arguments as in `fcrc_image_to_text`."""
    return F.cross_entropy(logits, labels)


def plain_text_to_image(logits: Tensor, labels: Tensor) -> Tensor:
    """Choose the images of each text among the batch's: KL divergence from a sharp target.

    The target of a bin is softmax(10 * one-hot) over the batch; bins without an image do not count.

    Args:
        logits: (B, K) float.
        labels: (B,) int64 bin indices in [0, K).

    Returns:
        Scalar, summed over bins present in the batch, divided by their number.

    Source:
        OrdinalCLIP (arXiv 2206.02338), as released.
    """
    bins = torch.arange(logits.shape[1], device=labels.device)
    positive = bins[:, None] == labels  # (K, B)
    present = positive.any(1, keepdim=True)  # (K, 1)
    target = (positive * TARGET_GAIN).to(logits.dtype).softmax(1) * present
    return F.kl_div(logits.T.log_softmax(1), target, reduction="sum") / present.sum()


def fcrc_image_to_text(logits: Tensor, labels: Tensor, mode: RankingMode = "released") -> Tensor:
    """Rank texts for each image: cross-entropy, negatives weighted by label distance.

    Args:
        logits: (B, K) float.
        labels: (B,) int64 bin indices in [0, K).
        mode: How a weight acts, see the module.

    Returns:
        Scalar, mean over the batch.

    Source:
        NumCLIP (arXiv 2408.03574), fine-grained cross-modal ranking-based contrastive loss.
    """
    weights = image_to_text_weights(labels, logits.shape[1])
    return plain_image_to_text(_weighted(logits, weights, mode), labels)


def fcrc_text_to_image(
    logits: Tensor,
    labels: Tensor,
    mode: RankingMode = "released",
    *,
    norm: Normalization | None = None,
) -> Tensor:
    """Rank images for each bin's text: KL divergence, negatives weighted by label distance.

    Args:
        logits: (B, K) float.
        labels: (B,) int64 bin indices in [0, K).
        mode: How a weight acts, see the module.
        norm: Scale of the weights, see `text_to_image_weights`; None: "released" in the released
            mode, "num_negatives" in the corrected one.

    Returns:
        Scalar, summed over bins present in the batch, divided by their number.

    Source:
        NumCLIP (arXiv 2408.03574), text-to-image half, as released.
    """
    scale = norm or ("released" if mode == "released" else "num_negatives")
    weights = text_to_image_weights(labels, logits.shape[1], scale)
    return plain_text_to_image(_weighted(logits, weights.T, mode), labels)


def _weighted(logits: Tensor, weights: Tensor, mode: RankingMode) -> Tensor:
    """Apply the weights (B, K); half-precision logits become float32, as in the released code.

    Weights rounded to bfloat16 would change weighted logits by up to 0.2.
    """
    if mode == "plain":
        return logits
    return logits * weights if mode == "released" else logits + weights.log()
