"""The bins' sentences in embedding space, with learnable words: own ones, or interpolated ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.model_config import PLAIN, RANK, PromptConfig, RankInterpolation
from numclip.model.text_encoder import PAD, TEMPLATE_IDS, token_ids
from numclip_runtime import UsageError

RANDOM_NAME = "[random]"  # stands for random words in errors
RANDOM_STD = 0.02  # of random words; that of CLIP's own token embeddings at initialisation
INVERSE_EPS = 1e-5  # keeps 1 / distance finite at a base rank
_SOT, _EOT, _FULL_STOP, _PAD = range(len(TEMPLATE_IDS))  # rows of `template`


class Sentences(nn.Module):
    """`[SOT] {context} {rank words} . [EOT] [PAD ...]`, one per bin, with a learned context.

    The rank words come from a subclass; they stand before, inside or after the context.

    Args:
        context: Words of the context.
        num_tokens: Number of rank words of each of the K bins.
        names: The rank words of each bin as text, for errors.
        token_embedding: Embedding table (V, Wt) float of the text tower.
        context_length: Text positions L.
        config: Layout and initialisation.

    Raises:
        UsageError: if a sentence does not fit into the text tower.
    """

    template: Tensor  # (4, Wt) embeddings of SOT, EOT, ".", PAD
    word_index: Tensor  # (K, L) int64: row of [template, context, rank words] at each position
    eot_index: Tensor  # (K,) int64 position of EOT, where the text tower reads out

    def __init__(
        self,
        context: str,
        num_tokens: Sequence[int],
        names: Sequence[str],
        token_embedding: Tensor,
        context_length: int,
        config: PromptConfig,
    ) -> None:
        super().__init__()
        table = token_embedding.detach()
        self.num_tokens = list(num_tokens)
        self.context_length = context_length
        contexts = len(num_tokens) if config.rank_specific_context else 1
        random_tokens = config.random_context_tokens
        words = initial_words([token_ids(context)] * contexts, random_tokens, table)
        shown = RANDOM_NAME if random_tokens else context
        for name, count in zip(names, num_tokens, strict=True):
            length = words.shape[1] + count + 3
            if count == 0 or length > context_length:
                raise UsageError(
                    f'the sentence "{shown} {name}." has {length} tokens, the text tower '
                    f"has {context_length} positions; shorten the context or the phrase."
                )
        # (n_ctx, Wt); rank-specific (K, n_ctx, Wt)
        self.context_embeds = nn.Parameter(words if config.rank_specific_context else words[0])
        self.register_buffer("template", table[list(TEMPLATE_IDS)].clone())
        rows = self._layout(words.shape[1], config)
        self.register_buffer("word_index", torch.tensor(rows), persistent=False)
        ends = [row.index(_EOT) for row in rows]
        self.longest = max(ends) + 1  # positions
        self.register_buffer("eot_index", torch.tensor(ends), persistent=False)

    def _layout(self, num_context: int, config: PromptConfig) -> list[list[int]]:
        bins, longest = len(self.num_tokens), max(self.num_tokens)
        first_context = len(TEMPLATE_IDS)
        first_rank = first_context + num_context * (bins if config.rank_specific_context else 1)
        before = {"front": 0, "middle": num_context // 2, "tail": num_context}
        split = before[config.phrase_position]
        rows = []
        for k, count in enumerate(self.num_tokens):
            start = first_context + (num_context * k if config.rank_specific_context else 0)
            context = list(range(start, start + num_context))
            rank = [first_rank + longest * k + i for i in range(count)]
            row = [_SOT, *context[:split], *rank, *context[split:], _FULL_STOP, _EOT]
            rows.append(row + [_PAD] * (self.context_length - len(row)))
        return rows

    def end_at_last_eot(self) -> None:
        """Leave out the positions after the longest sentence's EOT, for towers that read causally.

        Nothing before them depends on them, and short sentences fill 10 positions of 77.
        """
        self.word_index = self.word_index[:, : self.longest].clone()

    def assemble(self, rank_words: Tensor) -> Tensor:
        """Put the sentences together.

        Args:
            rank_words: (K, r, Wt), r the largest number of rank words.

        Returns:
            Sentences (K, L, Wt); L is smaller after `end_at_last_eot`.
        """
        width = self.template.shape[-1]
        parts = (self.template, self.context_embeds.reshape(-1, width))
        words = torch.cat([*parts, rank_words.reshape(-1, width)])
        return F.embedding(self.word_index, words)


def initial_words(ids: Sequence[Sequence[int]], random_tokens: int, table: Tensor) -> Tensor:
    """Return first values of words that will be learned.

    Args:
        ids: Token ids of n texts.
        random_tokens: This many random words for each text's own; 0: its own.
        table: Embedding table (V, Wt).

    Returns:
        (n, r, Wt), r the longest text's number of tokens or random_tokens; shorter texts are
        filled with the embedding of PAD.
    """
    if random_tokens:
        return torch.randn(len(ids), random_tokens, table.shape[1]).to(table) * RANDOM_STD
    longest = max(len(row) for row in ids)
    padded = [[*row, *[PAD] * (longest - len(row))] for row in ids]
    return table[torch.tensor(padded, dtype=torch.long)].clone()


class PromptLearner(Sentences):
    """Learn the words of `[SOT] {context} {phrase} . [EOT] [PAD ...]`, one sentence per bin.

    At initialisation this is the embedding of the ordinary sentence "{context} {phrase}.", unless
    the configuration asks for random words.

    Args:
        context: Words before the phrase, shared by all bins.
        phrases: K bin names.
        token_embedding: Embedding table (V, Wt) float32 of the text tower.
        context_length: Text positions L.
        config: Layout and initialisation.

    Raises:
        UsageError: if a sentence does not fit into the text tower.

    Source:
        NumCLIP (arXiv 2408.03574), section 3; CoOp (arXiv 2109.01134).
    """

    def __init__(
        self,
        context: str,
        phrases: Sequence[str],
        token_embedding: Tensor,
        context_length: int,
        config: PromptConfig = PLAIN,
    ) -> None:
        ids = [token_ids(phrase) for phrase in phrases]
        random_tokens = config.random_rank_tokens
        counts = [random_tokens or len(row) for row in ids]
        names = [RANDOM_NAME] * len(ids) if random_tokens else phrases
        super().__init__(context, counts, names, token_embedding, context_length, config)
        words = initial_words(ids, random_tokens, token_embedding.detach())
        self.rank_embeds = nn.Parameter(words)  # (K, r_max, Wt)

    def forward(self) -> Tensor:
        """Return the sentences, (K, L, Wt)."""
        return self.assemble(self.rank_embeds)


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


def interpolation_weights(
    num_bins: int, num_base_ranks: int, kind: RankInterpolation = "linear"
) -> Tensor:
    """Return each base rank's share in each bin, rows summing to 1.

    Base ranks stand at linspace(0, K - 1, Kb), a single one at (K - 1) / 2. With the distance d in
    bins, shares are proportional to 1 - d / (K - 1) ("linear"), 1 / (d + 1e-5) ("inverse") or
    exp(-d^2) ("normal").

    "linear" mixes all base ranks everywhere: with more than two, a base rank differs
    from its own bin (5 bins, 3 base ranks: bin 0 is 2/3, 1/3, 0). "inverse" reproduces base ranks.

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
