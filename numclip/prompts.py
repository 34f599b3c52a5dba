"""Prompt learner: one sentence per bin, in embedding space, with learnable words."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from numclip.backbone import open_clip
from numclip_runtime import UsageError

SOT, EOT, FULL_STOP, PAD = 49406, 49407, 269, 0  # ids of CLIP's byte-pair vocabulary
TEMPLATE_IDS = (SOT, EOT, FULL_STOP, PAD)


@functools.cache
def _tokenizer() -> Any:
    return open_clip.tokenizer.SimpleTokenizer()  # reads its vocabulary: 0.2 s


def token_ids(text: str) -> list[int]:
    """Tokenise with CLIP's byte-pair vocabulary, without start and end tokens."""
    return list(_tokenizer().encode(text.replace("_", " ")))


class PromptLearner(nn.Module):
    """Learn the words of `[SOT] {context} {phrase} . [EOT] [PAD ...]`, one sentence per bin.

    At initialisation this is the embedding of the ordinary sentence "{context} {phrase}.".

    Args:
        context: Words before the phrase, shared by all bins.
        phrases: K bin names.
        token_embedding: Embedding table (V, Wt) float32 of the text tower.
        context_length: Text positions L.

    Raises:
        UsageError: if a sentence does not fit into the text tower.

    Source:
        NumCLIP (arXiv 2408.03574), section 3; CoOp (arXiv 2109.01134).
    """

    template: Tensor  # (4, Wt) embeddings of SOT, EOT, ".", PAD
    eot_index: Tensor  # (K,) int64 position of EOT, where the text tower reads out

    def __init__(
        self, context: str, phrases: Sequence[str], token_embedding: Tensor, context_length: int
    ) -> None:
        super().__init__()
        table = token_embedding.detach()
        context_ids = token_ids(context)
        phrase_ids = [token_ids(phrase) for phrase in phrases]
        self.num_tokens = [len(ids) for ids in phrase_ids]
        self.context_length = context_length
        for phrase, count in zip(phrases, self.num_tokens, strict=True):
            length = len(context_ids) + count + 3
            if count == 0 or length > context_length:
                raise UsageError(
                    f'the sentence "{context} {phrase}." takes {length} tokens, the text tower '
                    f"has {context_length} positions; shorten the context or the phrase."
                )
        longest = max(self.num_tokens)
        padded = [ids + [PAD] * (longest - len(ids)) for ids in phrase_ids]
        self.context_embeds = nn.Parameter(
            table[torch.tensor(context_ids, dtype=torch.long)].clone()
        )
        self.rank_embeds = nn.Parameter(table[torch.tensor(padded)].clone())  # (K, r_max, Wt)
        self.register_buffer("template", table[list(TEMPLATE_IDS)].clone())
        eot_index = torch.tensor([len(context_ids) + count + 2 for count in self.num_tokens])
        self.register_buffer("eot_index", eot_index, persistent=False)

    def forward(self) -> Tensor:
        """Return the sentences, (K, L, Wt)."""
        sot, eot, stop, pad = self.template
        return torch.stack(
            [
                torch.cat(
                    [
                        sot[None],
                        self.context_embeds,
                        words[:count],
                        stop[None],
                        eot[None],
                        pad.expand(self.context_length - len(self.context_embeds) - count - 3, -1),
                    ]
                )  # (L, Wt)
                for words, count in zip(self.rank_embeds, self.num_tokens, strict=True)
            ]
        )


class TextEncoder(nn.Module):
    """The text tower of an open_clip model, fed with embeddings instead of token ids.

    Args:
        clip: open_clip `CLIP` or `CustomTextCLIP`; its modules are shared, not copied.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        text: Any = getattr(clip, "text", clip)
        self.transformer: nn.Module = text.transformer
        self.positional_embedding: nn.Parameter = text.positional_embedding
        self.ln_final: nn.Module = text.ln_final
        self.text_projection: nn.Parameter | nn.Linear = text.text_projection
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)

    def forward(self, sentences: Tensor, eot_index: Tensor) -> Tensor:
        """Encode sentences.

        Args:
            sentences: (K, L, Wt) float.
            eot_index: (K,) int64, position that is read out of each.

        Returns:
            Text features (K, D), not normalised.
        """
        x = self.transformer(sentences + self.positional_embedding, attn_mask=self.attn_mask)
        x = self.ln_final(x)[torch.arange(len(x)), eot_index]  # (K, Wt)
        if isinstance(self.text_projection, nn.Linear):
            projected: Tensor = self.text_projection(x)
            return projected
        return x @ self.text_projection  # type: ignore[no-any-return]
