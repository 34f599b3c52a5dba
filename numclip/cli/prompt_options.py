"""The options that say how prompts are made or, in a trained file, were made; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import click

from numclip.model.model_config import PhrasePosition, PromptConfig, PromptKind, RankInterpolation

Command = TypeVar("Command", bound=Callable[..., Any])

KIND = click.Choice(get_args(PromptKind))
INTERPOLATION = click.Choice(get_args(RankInterpolation))
OPTIONS = (
    click.option(
        "--prompt",
        type=KIND,
        default="plain",
        help="plain: words per bin, as in NumCLIP; rank: interpolated, as in OrdinalCLIP.",
    ),
    click.option(
        "--phrase-position",
        type=click.Choice(get_args(PhrasePosition)),
        default="tail",
        help="Where the phrase stands in the context.",
    ),
    click.option("--rank-specific-context/--shared-context", help="A context per bin, or one."),
    click.option(
        "--random-context-tokens",
        type=click.IntRange(0),
        default=0,
        help="This many random words in place of the task's context.",
    ),
    click.option(
        "--random-rank-tokens",
        type=click.IntRange(0),
        default=0,
        help="This many random words per bin or base rank in place of the phrases.",
    ),
    click.option("--num-base-ranks", type=click.IntRange(1), default=3, help="Of --prompt rank."),
    click.option(
        "--base-phrase",
        "base_phrases",
        multiple=True,
        help="Name of a base rank of --prompt rank, lowest first; repeat.  [default: random words]",
    ),
    click.option(
        "--rank-interpolation",
        type=INTERPOLATION,
        default="linear",
        help="Of --prompt rank.",
    ),
)
IMPORT_OPTIONS = (  # what a trained file of the authors' code may leave open
    click.option(
        "--prompt",
        type=KIND,
        help="plain: words per bin; rank: interpolated from base ranks.  [default: plain where "
        "ranks are as many as bins]",
    ),
    click.option(
        "--rank-interpolation",
        type=INTERPOLATION,
        help="Of --prompt rank; no file tells.  [default: linear]",
    ),
)


def prompt_options(command: Command) -> Command:
    """Add the options of training to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def prompt_import_options(command: Command) -> Command:
    """Add the options of converting to a command."""
    for option in reversed(IMPORT_OPTIONS):
        command = option(command)
    return command


def prompt_config(options: Mapping[str, Any]) -> PromptConfig:
    """Return what the options say.

    Raises:
        UsageError: if they contradict each other.
    """
    values = {name: options[name] for name in PromptConfig.__dataclass_fields__ if name != "kind"}
    return PromptConfig(kind=options["prompt"], **values)
