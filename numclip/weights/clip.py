"""Weights of plain CLIP models: OpenAI's files, open_clip's, and fine-tunes of either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from numclip.weights.reading import is_checkpoint, read_content, state_of, without_prefix
from numclip_runtime import ModelError

ROOTS = ("visual.", "text.", "token_embedding.", "transformer.", "image_encoder.model.")
EXTRAS = {"input_resolution", "context_length", "vocab_size"}  # in OpenAI's files, not weights
TEXT_ROOTS = (
    "text_projection",
    "positional_embedding",
    "token_embedding",
    "transformer",
    "ln_final",
)


class ClipWeights(NamedTuple):
    """The weights of a CLIP model."""

    state: dict[str, Tensor]  # named as in open_clip; float32
    openai: bool  # recognised as OpenAI's own, which were trained with QuickGELU
    text: bool  # with a text tower


def is_openai(state: Mapping[str, object]) -> bool:
    """Return whether these are OpenAI's weights, as released.

    Their archives and state dicts hold three sizes beside the weights; a state dict of their code
    (`clip.load(...)[0].state_dict()`) holds projections in half precision and norms in single.
    """
    names = {str(key).rpartition(".")[2] for key in state}
    if names >= EXTRAS:
        return True
    kinds = {
        name: {v.dtype for k, v in state.items() if str(k).endswith(name) and isinstance(v, Tensor)}
        for name in ("text_projection", "ln_final.weight")
    }
    return kinds == {"text_projection": {torch.float16}, "ln_final.weight": {torch.float32}}


def read_clip_weights(path: Path, *, words: bool = True) -> ClipWeights:
    """Read the weights of a CLIP model.

    Args:
        path: Weights file.
        words: The text tower is needed.

    Raises:
        ModelError: if the file cannot be read, or does not hold a whole CLIP model.
    """
    content = read_content(path)
    if is_checkpoint(content):
        raise ModelError(f"{path}: a trained numclip checkpoint, not weights of a CLIP model.")
    state = without_prefix(state_of(content, path), ROOTS)
    openai = is_openai(content.get("state_dict", content))
    if any(".prompt_learner." in f".{key}" for key in state):
        raise ModelError(
            f"{path}: a trained model of NumCLIP, OrdinalCLIP or CoOp, not weights of a CLIP "
            "model; `numclip-convert` reads it."
        )
    text = any("token_embedding." in key for key in state)
    if words and not text and any(key.startswith("visual.") for key in state):
        raise ModelError(
            f"{path}: holds only an image tower (visual.*); words need the text tower of the same "
            "CLIP model. Give its file, or train with --vectors prototypes."
        )
    # the causal mask is an attribute in OpenAI's archives, not a weight
    kept = {k: v for k, v in state.items() if k not in EXTRAS and k.split(".")[-1] != "attn_mask"}
    return ClipWeights(kept, openai, text)


def with_text_prefix(state: dict[str, Tensor], custom_text: bool) -> dict[str, Tensor]:
    """Rename the text tower's keys to those of open_clip's CLIP, or of CustomTextCLIP ("text.")."""
    if not custom_text:
        return {key.removeprefix("text."): value for key, value in state.items()}
    return {f"text.{k}" if k.startswith(TEXT_ROOTS) else k: v for k, v in state.items()}
