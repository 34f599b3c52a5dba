"""How well a set of embeddings keeps the order of its bins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from numclip_runtime import UsageError


def ordinality(embeddings: Tensor, span: int | None = None) -> float:
    """Return the share of neighbours in right order, 0 to 1.

    For bins i <= j, the embedding of i should be closer to that of j than to that of j + 1. In
    random embeddings this holds about half of the time. OrdinalCLIP reports bins 15 to 75 of its
    101: pass that slice.

    Args:
        embeddings: (K, D) float, such as `NumClip.text_features`; any length.
        span: Only pairs with j - i < span; None: all, the number that papers report.

    Raises:
        UsageError: if there are fewer than 2 embeddings, or span is below 1.

    Source:
        OrdinalCLIP (arXiv 2206.02338), ordinality score.
    """
    steps = len(embeddings) - 1
    span = steps if span is None else span
    if span < 1:
        raise UsageError(
            f"the ordinality score needs 2 embeddings and a span of 1 at least, got "
            f"{len(embeddings)} and {span}."
        )
    unit = F.normalize(embeddings, dim=1)
    similarity = unit @ unit.T  # (K, K)
    ordered = similarity[:-1, :-1] > similarity[:-1, 1:]  # (K - 1, K - 1)
    pairs = torch.ones_like(ordered).triu().tril(span - 1)
    return ordered[pairs].double().mean().item()
