"""The headline number of a prediction, the same for the model and its folded form."""

from __future__ import annotations

import torch
from torch import Tensor

from numclip_runtime import Task


def headline(task: Task, fine: Tensor, bin_probs: Tensor) -> Tensor:
    """Choose the number that a prediction stands for, as `task.prediction` says.

    Args:
        task: Gives the kind of prediction, the bins' numbers and the label offset.
        fine: (B,) the fine regressor's numbers, label units without offset.
        bin_probs: (B, K) probabilities of the bins.

    Returns:
        (B,) label units, offset included. "class" has no gradient, so train on `fine`.
    """
    if task.prediction == "regressor":
        values = fine
    else:
        numbers = torch.tensor(task.bin_values, dtype=bin_probs.dtype, device=bin_probs.device)
        expected = task.prediction == "expected"
        most = bin_probs.argmax(1)  # (B,)
        values = (bin_probs * numbers).sum(1) if expected else numbers.index_select(0, most)
    return values + task.label_offset if task.label_offset else values
