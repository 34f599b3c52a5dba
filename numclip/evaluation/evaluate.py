"""Metrics of an ordinal predictor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from numclip.model.numclip import NumClip

Batch = tuple[Tensor, Tensor, Tensor]


def metrics(values: Tensor, bin_probs: Tensor, labels: Tensor, bins: Tensor) -> dict[str, float]:
    """Compute the metrics of N predictions.

    Args:
        values: (N,) predicted numbers, label units.
        bin_probs: (N, K).
        labels: (N,) true numbers, label units.
        bins: (N,) int64 true bins.

    Returns:
        mae (label units), rmse (label units), bin_accuracy (share of right coarse bins, 0 to 1).
    """
    error = values - labels
    return {
        "mae": error.abs().mean().item(),
        "rmse": error.square().mean().sqrt().item(),
        "bin_accuracy": (bin_probs.argmax(1) == bins).float().mean().item(),
    }


@torch.inference_mode()
def evaluate(model: NumClip, batches: DataLoader[Batch]) -> dict[str, float]:
    """Run the model over labelled batches and return its metrics; leaves it in eval mode."""
    model.eval()
    device = model.logit_scale.device
    text_features = model.text_features()
    values, probs, labels, bins = [], [], [], []
    for images, label, bin_index in batches:
        out = model(images.to(device), text_features)
        values.append(out.values.cpu())
        probs.append(out.bin_probs.cpu())
        labels.append(label)
        bins.append(bin_index)
    return metrics(torch.cat(values), torch.cat(probs), torch.cat(labels), torch.cat(bins))
