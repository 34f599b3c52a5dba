"""Options of the commands, with the defaults of the dataclasses they fill; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_args

import click

from numclip.data.prepare import DataConfig
from numclip.model.model_config import PhrasePosition, PromptConfig, PromptKind, RankInterpolation
from numclip_runtime import Task
from numclip_runtime.console import FILE
from numclip_runtime.task import PredictionKind

Config = TypeVar("Config")
Function = Callable[..., Any]
Decorator = Callable[[Function], Function]
COUNT = click.IntRange(1)
NUMBER = click.IntRange(0)
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
# Given without --task, these describe a task by themselves; with it, they change it.
TASK_FLAGS = ("name", "unit", "bin_edges", "phrases", "context", "label_offset", "prediction")


def option(config: type, field: str, *flags: str, prefix: str = "", **attributes: Any) -> Decorator:
    """Return an option whose name and default are those of a dataclass field.

    Args:
        config: Dataclass that `config_of` builds.
        field: Its field.
        *flags: In place of --field-name.
        prefix: Before the field's name, such as "lr_" for --lr-image.
        **attributes: Other arguments of `click.option`.
    """
    name = f"{prefix}{field}"
    default = getattr(config, field)
    flags = flags or (f"--{name}".replace("_", "-"),)
    return click.option(*flags, name, default=default, **attributes)


def add(*options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command, in this order."""

    def decorate(command: Function) -> Function:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


def config_of(
    config: type[Config], given: Mapping[str, Any], *, prefix: str = "", **fixed: Any
) -> Config:
    """Build a dataclass from the values of a command's options.

    Args:
        config: Dataclass; fields without an option keep their default.
        given: Values by name, see `option`.
        prefix: As in `option`.
        **fixed: Fields that no option holds as it is.
    """
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    values = {name: given[prefix + name] for name in names if prefix + name in given}
    return config(**{**values, **fixed})


DATA_OPTIONS = add(
    click.option("--train", type=FILE, required=True, help=".csv, .txt, .parquet, or folder."),
    option(DataConfig, "val", type=FILE, help="The same, of other people, photos or places."),
    option(DataConfig, "test", type=FILE, help="The same, measured once at the end."),
    option(
        DataConfig, "root", type=FILE, help="Where image paths start.  [default: the file's folder]"
    ),
    option(
        DataConfig, "val_share", type=SHARE, help="Keep this share of --train in place of --val."
    ),
    option(DataConfig, "group_column", help="Column, such as person, that no two sets may share."),
    option(DataConfig, "shots", type=COUNT, help="Train on so many images of each distinct label."),
    option(
        DataConfig, "shift_top", type=COUNT, help="Thin out so many of the most frequent labels."
    ),
    option(
        DataConfig,
        "shift_keep",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of their training images that --shift-top keeps.",
    ),
    option(DataConfig, "val_min_label", type=float, help="Validate and test on a long tail only."),
    click.option(
        "--check-images/--no-check-images",
        default=None,
        help="Decode every image before training, or check none.  [default: file headers]",
    ),
    option(DataConfig, "skip_broken", is_flag=True, help="Leave broken images out."),
)
TASK_OPTIONS = add(
    click.option(
        "--task",
        help="Preset (adience, aesthetics, age, count, historical, quality) or a .toml file.",
    ),
    click.option("--name", help="Name of a task described by the options below, or changed."),
    click.option("--bin-edges", help="K + 1 increasing numbers, such as 0,13,19,35,65,101."),
    click.option("--phrases", help="K names of bins: 'child,teenager,...'."),
    click.option("--unit", help="Unit of the number, such as years."),
    click.option("--context", help="Words before the phrase."),
    click.option("--label-offset", type=float, help="Label in files minus model's number."),
    click.option(
        "--prediction",
        type=click.Choice(get_args(PredictionKind)),
        help="Predicted number: the regressor's, the bin's, or the bins' mean.  "
        "[default: the task's]",
    ),
)
PROMPT_OPTIONS = add(
    option(
        PromptConfig,
        "kind",
        "--prompt",
        type=click.Choice(get_args(PromptKind)),
        help="plain: words per bin, as in NumCLIP; rank: interpolated, as in OrdinalCLIP.",
    ),
    option(
        PromptConfig,
        "phrase_position",
        type=click.Choice(get_args(PhrasePosition)),
        help="Where the phrase stands in the context.",
    ),
    option(
        PromptConfig,
        "rank_specific_context",
        "--rank-specific-context/--shared-context",
        help="A context per bin, or one.",
    ),
    option(
        PromptConfig,
        "random_context_tokens",
        type=NUMBER,
        help="This many random words in place of the task's context.",
    ),
    option(
        PromptConfig,
        "random_rank_tokens",
        type=NUMBER,
        help="This many random words per bin or base rank in place of the phrases.",
    ),
    option(PromptConfig, "num_base_ranks", type=COUNT, help="Of --prompt rank."),
    option(
        PromptConfig,
        "base_phrases",
        "--base-phrase",
        multiple=True,
        help="Name of a base rank of --prompt rank, lowest first; repeat.  [default: random words]",
    ),
    option(
        PromptConfig,
        "rank_interpolation",
        type=click.Choice(get_args(RankInterpolation)),
        help="Of --prompt rank.",
    ),
)
CALIBRATION_OPTIONS = add(
    click.option(
        "--val",
        type=FILE,
        help="Labelled images to calibrate on, as for numclip-train: gives every number an "
        "interval, and export real images to compare on.  [default: no intervals]",
    ),
    click.option(
        "--root", type=FILE, help="Where --val's image paths start.  [default: its folder]"
    ),
)


def data_config(given: Mapping[str, Any]) -> DataConfig:
    """Return the data that the options of `DATA_OPTIONS` name."""
    check = {None: DataConfig.image_check, True: "decode", False: "none"}[given["check_images"]]
    return config_of(DataConfig, given, image_check=check)


def task_of(given: Mapping[str, Any]) -> Task:
    """Return the task that the options of `TASK_OPTIONS` describe."""
    from numclip.tasks import described_task  # needs tomli on Python 3.10

    flags = {name: given[name] for name in TASK_FLAGS if given[name] is not None}
    return described_task(given["task"], flags)
