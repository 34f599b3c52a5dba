"""Limits of a backbone's configuration, which may come from a checkpoint of a stranger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numclip.model.model_config import ClipConfig
from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.fields import shown

VOCABULARY = 49408  # CLIP's byte-pair vocabulary
POOLING = ("argmax", "first", "last")  # positions; argmax is that of EOT, the largest id
# Largest in open_clip: width 5120, 64 layers, image size 560, context length 77
SIZES = {
    "embed_dim": 16_384,
    "width": 16_384,
    "head_width": 16_384,
    "heads": 1_024,
    "layers": 256,
    "spectrum": 32,
    "patch_size": 1_024,
    "image_size": 4_096,
    "context_length": 4_096,
    "vocab_size": 1_000_000,
    "attn_pooler_queries": 4_096,
    "attn_pooler_heads": 1_024,
}
MAX_NUMBER = 1e6
MAX_DEPTH = 4  # of tables inside each other; open_clip's have 3
MAX_ITEMS = 100  # of a table or list


def check_clip_config(config: ClipConfig) -> None:
    """Check a configuration before anything is built from it: sizes, and that nothing is fetched.

    Args:
        config: Without "text_cfg" it is of an image tower alone.

    Raises:
        UsageError: naming the field.
    """
    for name in ("embed_dim", "vision_cfg"):
        if name not in config:
            raise UsageError(f"backbone: lacks {name!r} of an open_clip configuration.")
    for name in ("vision_cfg", "text_cfg"):
        if not isinstance(config.get(name, {}), Mapping):
            raise UsageError(f"backbone: {name!r} must be a table, got {shown(config[name])}.")
    if "multimodal_cfg" in config:
        raise UsageError("backbones with a multimodal text tower are not supported.")
    try:
        _check_values(config, "backbone", MAX_DEPTH)
    except UsageError as error:
        reason = str(error).removesuffix(".")
        raise UsageError(f"open_clip cannot build this configuration ({reason}).") from None
    _check_image_tower(config["vision_cfg"])


def _check_values(table: Mapping[Any, Any], where: str, depth: int) -> None:
    if len(table) > MAX_ITEMS or depth == 0:
        raise UsageError(f"{where}: is larger or deeper than any open_clip configuration.")
    for name, value in table.items():
        if not isinstance(name, str):
            raise UsageError(f"{where}: the name {shown(name)} is no text.")
        place = f"{where}: {shown(name)}"
        if isinstance(value, Mapping):
            _check_values(value, place, depth - 1)
            continue
        several = value if isinstance(value, (list, tuple)) else [value]
        if len(several) > MAX_ITEMS:
            raise UsageError(f"{place} has {len(several):,} items, at most {MAX_ITEMS}.")
        for item in several:
            _check_value(name, item, place)


def _check_value(name: str, value: object, place: str) -> None:
    if value is None or isinstance(value, bool):
        if name in SIZES and value is not None:
            raise UsageError(f"{place} must be a whole number, got {shown(value)}.")
    elif isinstance(value, str):
        if len(value) > 200 or name in SIZES:
            raise UsageError(f"{place} is no valid value: {shown(value)}.")
    elif isinstance(value, (int, float)):
        if name in SIZES and not (isinstance(value, int) and 1 <= value <= SIZES[name]):
            raise UsageError(
                f"{place} must be a whole number from 1 to {SIZES[name]:,}, got {shown(value)}."
            )
        if not (math.isfinite(value) if isinstance(value, float) else True) or not (
            -MAX_NUMBER <= value <= MAX_NUMBER
        ):
            raise UsageError(f"{place} is beyond the limit of {MAX_NUMBER:g}: {shown(value)}.")
    else:
        raise UsageError(f"{place} must be a number, text or table, got {shown(value)}.")


def check_text_tower(config: ClipConfig) -> None:
    """Check that prompts can be learned in front of a configuration's text tower.

    Raises:
        UsageError: naming the way out.
    """
    text = config.get("text_cfg")
    if text is None:
        raise UsageError(
            "this backbone has no text tower to compare words with; train with --vectors "
            "prototypes."
        )
    if text.get("hf_model_name"):
        raise UsageError("backbones with a Hugging Face text tower are not supported.")
    tokenizer, vocabulary = text.get("hf_tokenizer_name"), text.get("vocab_size", VOCABULARY)
    if tokenizer or vocabulary != VOCABULARY:
        name = f"the tokenizer {visible(tokenizer)}" if tokenizer else "another tokenizer"
        raise UsageError(
            f"backbones whose text tower has another tokenizer are not supported: this one has "
            f"{name} with {vocabulary} tokens, while prompts use CLIP's byte-pair vocabulary of "
            f"{VOCABULARY}; choose a backbone such as ViT-B-16, or train with --vectors prototypes."
        )
    pooling = text.get("pool_type", "argmax")
    if pooling not in POOLING or text.get("embed_cls") or text.get("use_pad_mask"):
        raise UsageError(
            "backbones whose text tower has a class token, a padding mask or another pooling than "
            f"{', '.join(POOLING)} are not supported (pool_type is {pooling!r})."
        )


def _check_image_tower(vision: Mapping[str, Any]) -> None:
    """Refuse towers that timm would fetch from the network, or from a folder of this machine."""
    name = vision.get("timm_model_name")
    if vision.get("timm_model_pretrained"):
        raise UsageError(
            "backbone: 'timm_model_pretrained' would fetch weights while the model is built; set "
            "it to false, and give the weights with --pretrained."
        )
    if name is None:
        return
    import timm

    if not isinstance(name, str) or not timm.is_model(name):
        raise UsageError(
            f"backbone: {shown(name)} is no architecture of timm; names such as hf-hub:... and "
            "local-dir:... are refused, because they fetch a model from elsewhere."
        )
