"""The text tower of CLIP: byte-pair tokens of words, and the encoder of sentence embeddings."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from numclip.model.backbone import open_clip
from numclip_runtime import UsageError
from numclip_runtime.fields import shown

SOT, EOT, FULL_STOP, PAD = 49406, 49407, 269, 0
MAX_TEXT = 1_000  # characters of a phrase or context; 77 tokens are about 300
TEMPLATE_IDS = (SOT, EOT, FULL_STOP, PAD)


@functools.cache
def _tokenizer() -> Any:
    return open_clip.tokenizer.SimpleTokenizer()  # reads its vocabulary: 0.2 s


def token_ids(text: str) -> list[int]:
    """Tokenise with CLIP's byte-pair vocabulary, without start and end tokens.

    Raises:
        UsageError: if the text is longer than any text tower reads; its time grows as the square.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(
            f"the text {shown(text)} has {len(text):,} characters, at most {MAX_TEXT}."
        )
    return list(_tokenizer().encode(text.replace("_", " ")))


class TextEncoder(nn.Module):
    """The text tower of an open_clip model, fed with embeddings instead of token ids.

    CLIP attends causally and reads out at EOT; SigLIP attends both ways (no mask) and reads out at
    the last position. Both are taken from the tower.

    Args:
        clip: open_clip `CLIP` or `CustomTextCLIP`; its modules are shared, not copied.
    """

    attn_mask: Tensor | None  # (L, L) additive

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        text: Any = getattr(clip, "text", clip)
        self.transformer: nn.Module = text.transformer
        self.positional_embedding: nn.Parameter = text.positional_embedding
        self.ln_final: nn.Module = text.ln_final
        self.text_projection: nn.Parameter | nn.Linear | None = text.text_projection
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        # CLIP keeps it as text_pool_type, CustomTextCLIP's tower as pool_type
        self.pool_type: str = getattr(text, "pool_type", getattr(text, "text_pool_type", "argmax"))

    @property
    def causal(self) -> bool:
        """Whether what follows EOT cannot matter."""
        return self.attn_mask is not None and self.pool_type not in ("first", "last")

    def forward(self, sentences: Tensor, eot_index: Tensor) -> Tensor:
        """Encode sentences.

        Args:
            sentences: (K, L, Wt) float; a causal tower takes their beginnings, too, of any length.
            eot_index: (K,) int64, position of EOT: read out there, unless the tower reads the
                first or last position.

        Returns:
            Text features (K, D), not normalised.
        """
        length = sentences.shape[1]
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        x: Tensor = self.transformer(sentences + self.positional_embedding[:length], attn_mask=mask)
        x = self.ln_final(x)  # (K, L, Wt)
        if self.pool_type in ("first", "last"):
            x = x[:, 0 if self.pool_type == "first" else -1]
        else:
            x = x[torch.arange(len(x), device=x.device), eot_index]  # (K, Wt)
        if isinstance(self.text_projection, nn.Linear):
            x = self.text_projection(x)
        elif self.text_projection is not None:
            x = x @ self.text_projection
        return x
