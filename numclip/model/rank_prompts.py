"""Prompt learner whose bins share a few base ranks, so that neighbours stay neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from numclip.model.model_config import RANK, PromptConfig, RankInterpolation
from numclip.model.sentences import RANDOM_NAME, Sentences, initial_words
from numclip.model.tokens import token_ids
from numclip_runtime import UsageError

INVERSE_EPS = 1e-5  # keeps 1 / distance finite at a base rank


def interpolation_weights(
    num_bins: int, num_base_ranks: int, kind: RankInterpolation = "linear"
) -> Tensor:
    """Return each base rank's share in each bin, rows summing to 1.

    Base ranks stand at linspace(0, K - 1, Kb), a single one at (K - 1) / 2. With the distance d in
    bins, shares are proportional to 1 - d / (K - 1) ("linear"), 1 / (d + 1e-5) ("inverse") or
    exp(-d^2) ("normal").

    "linear" mixes all base ranks everywhere: with more than two, a base rank is not what its own
    bin gets (5 bins, 3 base ranks: bin 0 is 2/3, 1/3, 0). "inverse" gives base ranks back.

    Args:
        num_bins: K, at least 2.
        num_base_ranks: Kb.
        kind: Form of the weights.

    Returns:
        (K, Kb) float32.

    Source:
        OrdinalCLIP (arXiv 2206.02338). Deviation: "normal" is computed as softmax(-d^2), because
        exp(-d^2) underflows to rows of zeros far from all base ranks (58 of 101 bins with 3).
    """
    bins = torch.arange(num_bins, dtype=torch.float64)
    base = torch.linspace(0, num_bins - 1, num_base_ranks, dtype=torch.float64)
    if num_base_ranks == 1:
        base = base.new_tensor([(num_bins - 1) / 2])
    distance = (bins[:, None] - base).abs()  # (K, Kb)
    if kind == "normal":
        return (-distance.square()).softmax(1).float()
    weights = 1 - distance / (num_bins - 1) if kind == "linear" else 1 / (distance + INVERSE_EPS)
    return (weights / weights.sum(1, keepdim=True)).float()


class RankPromptLearner(Sentences):
    """Learn base ranks; the rank words of each bin are interpolated from them.

    Every bin has as many rank words as the longest base phrase; in shorter ones the embedding of
    PAD fills up and is learned like a word.

    Args:
        context: Words around the rank words.
        num_bins: K.
        token_embedding: Embedding table (V, Wt) float32 of the text tower.
        context_length: Text positions L.
        config: Layout, base ranks, interpolation, initialisation.

    Raises:
        UsageError: if there are more base ranks than bins, or a sentence does not fit into the
            text tower.

    Source:
        OrdinalCLIP (arXiv 2206.02338), section 3.
    """

    interpolation: Tensor  # (K, Kb)

    def __init__(
        self,
        context: str,
        num_bins: int,
        token_embedding: Tensor,
        context_length: int,
        config: PromptConfig = RANK,
    ) -> None:
        count = len(config.base_phrases) or config.num_base_ranks
        if count > num_bins:
            raise UsageError(
                f"prompt: {count} base ranks for {num_bins} bins; give at most one per bin."
            )
        ids = [token_ids(phrase) for phrase in config.base_phrases] or [[]] * count
        for phrase, row in zip(config.base_phrases, ids, strict=False):
            if not row:
                raise UsageError(f"prompt: the base phrase {phrase!r} is empty.")
        random_tokens = 0 if config.base_phrases else max(1, config.random_rank_tokens)
        words = initial_words(ids, random_tokens, token_embedding.detach())
        longest = max(config.base_phrases, key=lambda p: len(token_ids(p)), default=RANDOM_NAME)
        super().__init__(
            context,
            [words.shape[1]] * num_bins,
            [longest] * num_bins,
            token_embedding,
            context_length,
            config,
        )
        self.rank_embeds = nn.Parameter(words)  # (Kb, r, Wt)
        weights = interpolation_weights(num_bins, count, config.rank_interpolation)
        self.register_buffer("interpolation", weights, persistent=False)

    def forward(self) -> Tensor:
        """Return the sentences, (K, L, Wt)."""
        return self.assemble(torch.tensordot(self.interpolation, self.rank_embeds, dims=1))
