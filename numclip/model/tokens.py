"""CLIP's byte-pair vocabulary: text to token ids."""

from __future__ import annotations

import functools
from typing import Any

from numclip.model.backbone import open_clip

SOT, EOT, FULL_STOP, PAD = 49406, 49407, 269, 0
TEMPLATE_IDS = (SOT, EOT, FULL_STOP, PAD)


@functools.cache
def _tokenizer() -> Any:
    return open_clip.tokenizer.SimpleTokenizer()  # reads its vocabulary: 0.2 s


def token_ids(text: str) -> list[int]:
    """Tokenise with CLIP's byte-pair vocabulary, without start and end tokens."""
    return list(_tokenizer().encode(text.replace("_", " ")))
