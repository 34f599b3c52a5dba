"""Prompt learner: one sentence per bin, in embedding space, with learnable words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from numclip.model.model_config import PLAIN, PromptConfig
from numclip.model.sentences import RANDOM_NAME, Sentences, initial_words
from numclip.model.text_encoder import TextEncoder
from numclip.model.tokens import EOT, FULL_STOP, PAD, SOT, TEMPLATE_IDS, token_ids

__all__ = [
    "EOT",
    "FULL_STOP",
    "PAD",
    "SOT",
    "TEMPLATE_IDS",
    "PromptConfig",
    "PromptLearner",
    "TextEncoder",
    "token_ids",
]


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
