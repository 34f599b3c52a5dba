"""Vectors that images are compared with, as a parameter: no text tower, in training or after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.backbone import open_clip
from numclip.model.model_config import ClipConfig
from numclip_runtime import UsageError
from numclip_runtime.errors import first_line

RANDOM_PROTOTYPES = "--prototypes random starts without words"


class Prototypes(nn.Module):
    """R vectors of D numbers, one per bin or number; their length does not matter.

    They start as random directions; `text_vectors` are a better start.

    Source:
        The classifier weights of CLIP's linear probe and of prototype learning (Snell et al.,
        arXiv 1703.05175), compared by cosine as in CLIP (arXiv 2103.00020).
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, width), dim=-1))

    def forward(self) -> Tensor:
        """Return the vectors, (R, D): a tensor, which a module that keeps it doesn't register."""
        return self.weight.view_as(self.weight)


@torch.no_grad()
def text_vectors(clip: nn.Module, config: ClipConfig, sentences: Sequence[str]) -> Tensor:
    """Encode sentences once, by an open_clip model with its own tokenizer, whichever that is.

    Args:
        clip: Model with a text tower.
        config: Its configuration, which names the tokenizer.
        sentences: R sentences.

    Returns:
        (R, D) float32 of unit length.

    Raises:
        UsageError: if the tokenizer is not on this machine and cannot be fetched.
    """
    model: Any = clip.eval()
    tokens = _tokenizer_of(config)(list(sentences))
    encoded: Tensor = model.encode_text(tokens)
    return F.normalize(encoded.float(), dim=-1)


def _tokenizer_of(config: ClipConfig) -> Any:
    text = config["text_cfg"]
    name, length = text.get("hf_tokenizer_name"), text.get("context_length", 77)
    if not name:
        return open_clip.tokenizer.SimpleTokenizer(context_length=length)
    try:
        return open_clip.tokenizer.HFTokenizer(
            name,
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            **text.get("tokenizer_kwargs", {}),
        )
    except Exception as error:  # transformers missing (ImportError), hub and network errors
        raise UsageError(
            f"cannot load the tokenizer {name} ({first_line(error)[:200]}); install transformers "
            f"and fetch it once, or: {RANDOM_PROTOTYPES}."
        ) from None
