"""Options of the commands, made from the dataclasses that they fill; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from numclip.data.columns import TableOptions
from numclip.data.prepare import DataConfig
from numclip.model.model_config import PromptConfig
from numclip_runtime import Task
from numclip_runtime.commands import Decorator, add
from numclip_runtime.console import FILE
from numclip_runtime.task import PredictionKind

Config = TypeVar("Config")
COUNT = click.IntRange(1)
NUMBER = click.IntRange(0)
RATE = click.FloatRange(0)
CHECKPOINTS = (".pt", ".safetensors")  # suffixes of those that are written
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
# Given without --task, these describe a task by themselves; with it, they change it.
TASK_FLAGS = (
    "name",
    "unit",
    "bin_edges",
    "phrases",
    "context",
    "label_offset",
    "whole_numbers",
    "prediction",
)


def options_of(
    config: type,
    prefix: str = "",
    flags: Mapping[str, str] | None = None,
    *,
    optional: bool = False,
    **given: str | tuple[Any, str],
) -> Decorator:
    """Return a decorator that adds an option for each given field of a dataclass, in this order.

    Name, default and, unless given, type are the field's: a Literal becomes a choice, bool a flag,
    a tuple an option that may be repeated.

    Args:
        config: Dataclass that `config_of` builds.
        prefix: Before the field's name, such as "lr_" for --lr-image.
        flags: By field, in place of --field-name.
        optional: The value is None where the option is not given, not the field's default.
        **given: By field: help ("" for none), or type and help.
    """
    hints = get_type_hints(config)
    added = []
    for field, value in given.items():
        name = prefix + field
        flag = (flags or {}).get(field) or f"--{name}".replace("_", "-")
        text = value if isinstance(value, str) else value[1]
        more = _kind_of(hints[field]) if isinstance(value, str) else {"type": value[0]}
        default = None if optional else getattr(config, field)
        added.append(click.option(flag, name, default=default, help=text or None, **more))
    return add(*added)


def _kind_of(hint: Any) -> dict[str, Any]:
    """Return click's arguments for a field annotated `hint`, `hint | None` included."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = set(get_args(hint)) - {type(None)}
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"multiple": True}
    return {"is_flag": True} if hint is bool else {"type": FILE if hint is Path else hint}


def changed(config: Config, given: Mapping[str, Any], *, prefix: str = "", **fixed: Any) -> Config:
    """Return a dataclass with those fields replaced for which an option was given.

    Args:
        config: Dataclass to start from.
        given: Values by name; None was not given, see `options_of`.
        prefix: As of `options_of`.
        **fixed: Fields that no option holds as it is.
    """
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    values = {n: given[prefix + n] for n in names if given.get(prefix + n) is not None}
    return replace(config, **{**values, **fixed})  # type: ignore[type-var]


def config_of(
    config: type[Config], given: Mapping[str, Any], *, prefix: str = "", **fixed: Any
) -> Config:
    """Build a dataclass from the values of a command's options.

    Args:
        config: Dataclass; fields without an option keep their default.
        given: Values by name, see `options_of`.
        prefix: As of `options_of`.
        **fixed: Fields that no option holds as it is.
    """
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    values = {name: given[prefix + name] for name in names if prefix + name in given}
    return config(**{**values, **fixed})


TABLE_OPTIONS = options_of(
    TableOptions,
    path_column="Column of image paths.  [default: path; or file, image, ...]",
    label_column="Column of labels; in tars, field of the JSON.  [default: label]",
    skip_unlabelled="Leave images without a label out.",
)
DATA_OPTIONS = add(
    click.option(
        "--train",
        "--data",
        "train",
        type=FILE,
        help="The images, in place of IMAGES: .csv, .txt, .parquet, folder, or tars "
        "('shards/*.tar').",
    ),
    options_of(
        DataConfig,
        val="The same, of other people, photos or places.",
        test="The same, measured once at the end.",
        root="Where image paths start.  [default: the file's folder]",
        val_share=(SHARE, "Keep this share of --train in place of --val."),
        calibration_share=(
            click.FloatRange(0, 1, max_open=True),
            "Share of the validation images that is kept for the intervals alone, so that these "
            "hold what they state; 0: none.  [default: half, if there are enough]",
        ),
    ),
    TABLE_OPTIONS,
    options_of(
        DataConfig,
        group_column="Column, such as person, that no two sets may share; intervals then hold for "
        "new ones.",
        shots=(COUNT, "Train on so many images of each distinct label."),
        shift_top=(COUNT, "Thin out so many of the most frequent labels."),
        shift_keep=(
            click.FloatRange(0, 1, min_open=True),
            "Share of their training images that --shift-top keeps.",
        ),
        val_min_label="Validate and test on a long tail only.",
    ),
    click.option(
        "--check-images/--no-check-images",
        default=None,
        help="Decode every image before training, or check none.  [default: file headers]",
    ),
    options_of(DataConfig, skip_broken="Leave broken images out."),
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
        "--whole-numbers/--any-numbers",
        default=None,
        help="Whether labels are whole: [13, 19) then stands for 15.5.  [default: as in the data]",
    ),
    click.option(
        "--prediction",
        type=click.Choice(get_args(PredictionKind)),
        help="Predicted number: the regressor's, the bin's, or the bins' mean.  "
        "[default: the task's]",
    ),
)
PROMPT_OPTIONS = options_of(
    PromptConfig,
    flags={
        "kind": "--prompt",
        "rank_specific_context": "--rank-specific-context/--shared-context",
        "base_phrases": "--base-phrase",
    },
    kind="plain: words per bin, as in NumCLIP; rank: interpolated, as in OrdinalCLIP.",
    phrase_position="Where the phrase stands in the context.",
    rank_specific_context="A context per bin, or one.",
    random_context_tokens=(NUMBER, "This many random words in place of the task's context."),
    random_rank_tokens=(
        NUMBER,
        "This many random words per bin or base rank in place of the phrases.",
    ),
    num_base_ranks=(COUNT, "Of --prompt rank."),
    base_phrases="Name of a base rank of --prompt rank, lowest first; repeat.  "
    "[default: random words]",
    rank_interpolation="Of --prompt rank.",
)
QUICK_GELU_OPTION = click.option(
    "--quickgelu/--gelu", "quick_gelu", default=None, help="[default: the backbone's]"
)
CALIBRATION_OPTIONS = add(
    click.option(
        "--val",
        "--data",
        "val",
        type=FILE,
        help="Labelled images to calibrate on, as for numclip-train: gives every number an "
        "interval, and export real images to compare on.  [default: no intervals]",
    ),
    click.option(
        "--root", type=FILE, help="Where --val's image paths start.  [default: its folder]"
    ),
    click.option(
        "--group-column",
        help="Column of --val, such as person: the intervals then hold for new persons.",
    ),
    TABLE_OPTIONS,
)


def data_config(given: Mapping[str, Any]) -> DataConfig:
    """Return the data that the options of `DATA_OPTIONS` name."""
    check = {None: DataConfig.image_check, True: "decode", False: "none"}[given["check_images"]]
    return config_of(DataConfig, given, image_check=check)


def table_options(given: dict[str, Any]) -> TableOptions:
    """Take the values of `TABLE_OPTIONS` out of a command's options."""
    return TableOptions(**{field.name: given.pop(field.name) for field in fields(TableOptions)})


def task_of(given: Mapping[str, Any]) -> Task:
    """Return the task that the options of `TASK_OPTIONS` describe."""
    from numclip.tasks import described_task  # needs tomli on Python 3.10

    flags = {name: given[name] for name in TASK_FLAGS if given[name] is not None}
    return described_task(given["task"], flags)
