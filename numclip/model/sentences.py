"""The bins' sentences in embedding space, put together by one lookup."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.model_config import PromptConfig
from numclip.model.tokens import PAD, TEMPLATE_IDS, token_ids
from numclip_runtime import UsageError

RANDOM_NAME = "[random]"  # stands for random words in errors
RANDOM_STD = 0.02  # of random words; that of CLIP's own token embeddings at initialisation
_SOT, _EOT, _FULL_STOP, _PAD = range(len(TEMPLATE_IDS))  # rows of `template`


class Sentences(nn.Module):
    """`[SOT] {context} {rank words} . [EOT] [PAD ...]`, one per bin, with a learned context.

    The rank words come from a subclass; they stand before, inside or after the context.

    Args:
        context: Words of the context.
        num_tokens: Number of rank words of each of the K bins.
        names: What the rank words say in each bin, for errors.
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
                    f'the sentence "{shown} {name}." takes {length} tokens, the text tower '
                    f"has {context_length} positions; shorten the context or the phrase."
                )
        # (n_ctx, Wt); rank-specific (K, n_ctx, Wt)
        self.context_embeds = nn.Parameter(words if config.rank_specific_context else words[0])
        self.register_buffer("template", table[list(TEMPLATE_IDS)].clone())
        rows = self._layout(words.shape[1], config)
        self.register_buffer("word_index", torch.tensor(rows), persistent=False)
        eot_index = torch.tensor([row.index(_EOT) for row in rows])
        self.register_buffer("eot_index", eot_index, persistent=False)

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

    def assemble(self, rank_words: Tensor) -> Tensor:
        """Put the sentences together.

        Args:
            rank_words: (K, r, Wt), r the largest number of rank words.

        Returns:
            Sentences (K, L, Wt).
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
