"""The configuration that rebuilds a model, weights aside; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from numclip_runtime import UsageError

DEFAULT_BACKBONE = "ViT-B-16"  # the paper's
ClipConfig = dict[str, Any]  # open_clip's JSON: embed_dim, vision_cfg, text_cfg, quick_gelu
PromptKind = Literal["plain", "rank"]
PhrasePosition = Literal["front", "middle", "tail"]
RankInterpolation = Literal["linear", "inverse", "normal"]
RegressorForm = Literal["released", "bounded", "expected"]


@dataclass(frozen=True)
class PromptConfig:
    """How the bins' sentences are made. The defaults are NumCLIP's.

    Raises:
        UsageError: if fields are out of range or contradict each other.
    """

    kind: PromptKind = "plain"  # plain: own words per bin; rank: interpolated from base ranks
    phrase_position: PhrasePosition = "tail"  # where the bin's words stand in the context
    rank_specific_context: bool = False  # each bin learns a context of its own
    random_context_tokens: int = 0  # this many random words for the task's context; 0: its words
    # This many random words per rank for the phrases; 0: the phrases' own words (kind "rank": those
    # of base_phrases, and 1 random word where there are none).
    random_rank_tokens: int = 0
    num_base_ranks: int = 3  # kind "rank": how many, where base_phrases does not name them
    base_phrases: tuple[str, ...] = ()  # kind "rank": names of the base ranks, lowest first
    rank_interpolation: RankInterpolation = "linear"  # kind "rank": see interpolation_weights

    def __post_init__(self) -> None:
        for name, choices in (
            ("kind", PromptKind),
            ("phrase_position", PhrasePosition),
            ("rank_interpolation", RankInterpolation),
        ):
            if (value := getattr(self, name)) not in get_args(choices):
                raise UsageError(
                    f"prompt: {name} must be one of {', '.join(get_args(choices))}, got {value!r}."
                )
        for name, least in (
            ("random_context_tokens", 0),
            ("random_rank_tokens", 0),
            ("num_base_ranks", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise UsageError(f"prompt: {name} must be at least {least}, got {value}.")
        if self.base_phrases and self.kind != "rank":
            raise UsageError(
                "prompt: base_phrases name the base ranks of kind 'rank'; the plain kind uses the "
                "task's phrases."
            )
        if self.base_phrases and self.random_rank_tokens:
            raise UsageError(
                "prompt: base ranks start either from base_phrases or from random_rank_tokens; "
                "give one of them."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PromptConfig:
        """Build from plain data, as from `dataclasses.asdict` or JSON.

        Raises:
            UsageError: if a field is unknown, or a value is invalid.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise UsageError(f"prompt: unknown field(s) {unknown}; known are {known}.")
        return cls(**{**data, "base_phrases": tuple(data.get("base_phrases", ()))})


PLAIN = PromptConfig()  # NumCLIP, CoOp
RANK = PromptConfig(kind="rank")  # OrdinalCLIP: 3 base ranks of 1 random word each


@dataclass(frozen=True)
class ModelConfig:
    """Everything that rebuilds the model except its weights."""

    clip: ClipConfig  # open_clip configuration, quick_gelu explicit
    adapter_ratio: float = 0.8  # share of the adapter's branch; 0 bypasses the adapter
    adapter_reduction: int = 4  # adapter width = D / reduction
    regressor: RegressorForm = "released"  # see FineRegressor
    adapter_width: int | None = None  # of the bottleneck; None: D / reduction
    prompts: PromptConfig = PLAIN  # how the bins' sentences are made

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Build from plain data, as from `dataclasses.asdict`; newer fields may be missing.

        Raises:
            UsageError: if a prompt field is unknown or a value is invalid.
            TypeError: if another field is unknown.
        """
        return cls(**{**data, "prompts": PromptConfig.from_dict(data.get("prompts", {}))})
