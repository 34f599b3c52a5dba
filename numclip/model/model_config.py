"""The configuration that rebuilds a model, weights aside; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from numclip_runtime import UsageError
from numclip_runtime.fields import read_fields, read_value, shown
from numclip_runtime.task import MAX_BINS

DEFAULT_BACKBONE = "ViT-B-16"  # the paper's
MAX_WORDS = 1_000  # of a prompt, and of base ranks; text towers have 77 positions
MAX_ADAPTER = 65_536
ClipConfig = dict[str, Any]  # open_clip's JSON: embed_dim, vision_cfg, text_cfg, quick_gelu
PromptKind = Literal["plain", "rank"]
PhrasePosition = Literal["front", "middle", "tail"]
RankInterpolation = Literal["linear", "inverse", "normal"]
RegressorForm = Literal["released", "bounded", "expected"]
HeadKind = Literal["numclip", "distribution", "probe"]
Vectors = Literal["words", "prototypes"]
Tune = Literal["all", "projector", "lora", "none"]  # what is trained of an image tower
PrototypeStart = Literal["text", "random"]
Features = Literal["last", "levels"]  # of a tower of timm


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
            if value > MAX_WORDS:
                raise UsageError(f"prompt: {name} must be at most {MAX_WORDS:,}, got {value}.")
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
        return read_fields(cls, data, "prompt")


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
    # What images are compared with: the bins' sentences, which the text tower encodes at each step,
    # or a vector per bin that is itself a parameter, so that there is no text tower.
    vectors: Vectors = "words"
    # numclip: bins refined to a number; distribution: over a grid of numbers; probe: a linear
    # function of the image features, compared with nothing. See numclip.model.heads.
    head: HeadKind = "numclip"
    grid_points: int | None = None  # of a distribution; None: chosen by the task, see number_grid

    def __post_init__(self) -> None:
        for name, choices in (("vectors", Vectors), ("head", HeadKind)):
            if (value := getattr(self, name)) not in get_args(choices):
                raise UsageError(
                    f"config: {name} must be one of {', '.join(get_args(choices))}, got {value!r}."
                )
        if self.grid_points is not None and not 2 <= self.grid_points <= MAX_BINS:
            raise UsageError(
                f"config: grid_points must be from 2 to {MAX_BINS:,}, got {self.grid_points}."
            )
        if not 0 <= self.adapter_ratio <= 1:
            raise UsageError(
                f"config: adapter_ratio must be between 0 and 1, got {self.adapter_ratio:g}."
            )
        if self.adapter_reduction < 1:
            raise UsageError(
                f"config: adapter_reduction must be at least 1, got {self.adapter_reduction}."
            )
        if self.adapter_width is not None and self.head != "numclip":
            raise UsageError(
                f"config: adapter_width {self.adapter_width} is of the head 'numclip'; the head "
                f"{self.head!r} has no adapter."
            )
        if self.adapter_width is not None and not 1 <= self.adapter_width <= MAX_ADAPTER:
            raise UsageError(
                f"config: adapter_width must be from 1 to {MAX_ADAPTER:,}, got "
                f"{self.adapter_width}."
            )

    @property
    def has_words(self) -> bool:
        """Whether sentences are encoded by a text tower."""
        return self.vectors == "words" and self.head != "probe"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Build from plain data, as from `dataclasses.asdict`; newer fields may be missing.

        Raises:
            UsageError: if a field is unknown or a value is invalid. What is inside `clip` is
                checked when a model is built from it.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("clip"), dict):
            raise UsageError("config: lacks the table 'clip' of the backbone.")
        kinds = get_type_hints(cls)
        if unknown := [name for name in data if name not in kinds]:
            raise UsageError(f"config: unknown field(s) [{', '.join(map(shown, unknown[:5]))}].")
        values = {
            name: read_value(kinds[name], data[name], f"config: {name!r}")
            for name in data
            if name != "clip"
        }
        return cls(data["clip"], **values)
