"""Options of `numclip-train` that describe the task and the data; importing it loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from numclip_runtime import Task
from numclip_runtime.console import FILE
from numclip_runtime.task import PredictionKind

if TYPE_CHECKING:
    from numclip.data.prepare import DataConfig

F = TypeVar("F", bound=Callable[..., Any])
COUNT = click.IntRange(1)
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
# Given without --task, these describe a task by themselves; with it, they change it.
TASK_FLAGS = ("name", "unit", "bin_edges", "phrases", "context", "label_offset", "prediction")

_DATA = (
    click.option("--train", type=FILE, required=True, help=".csv, .txt, .parquet, or folder."),
    click.option("--val", type=FILE, help="The same, of other people, photos or places."),
    click.option("--test", type=FILE, help="The same, measured once at the end."),
    click.option(
        "--root", type=FILE, help="Where image paths start.  [default: the file's folder]"
    ),
    click.option("--val-share", type=SHARE, help="Keep this share of --train in place of --val."),
    click.option("--group-column", help="Column, such as person, that no two sets may share."),
    click.option("--shots", type=COUNT, help="Train on so many images of each distinct label."),
    click.option("--shift-top", type=COUNT, help="Thin out so many of the most frequent labels."),
    click.option(
        "--shift-keep",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.1,
        help="Share of their training images that --shift-top keeps.",
    ),
    click.option("--val-min-label", type=float, help="Validate and test on a long tail only."),
    click.option(
        "--check-images/--no-check-images",
        default=None,
        help="Decode every image before training, or check none.  [default: file headers]",
    ),
    click.option("--skip-broken", is_flag=True, help="Leave broken images out."),
)
_TASK = (
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
        help="Headline number: the fine one, the bin's, or the bins' mean.  [default: the task's]",
    ),
)


def data_options(command: F) -> F:
    """Add the options that `data_config` reads."""
    for option in reversed(_DATA):
        command = option(command)
    return command


def task_options(command: F) -> F:
    """Add the options that `task_of` reads."""
    for option in reversed(_TASK):
        command = option(command)
    return command


def data_config(options: dict[str, Any]) -> DataConfig:
    """Return the `DataConfig` of a command's options."""
    from numclip.data.checks import ImageCheck
    from numclip.data.prepare import DataConfig

    checks: dict[bool | None, ImageCheck] = {None: "header", True: "decode", False: "none"}
    names = {field.name for field in fields(DataConfig)} - {"image_check"}
    return DataConfig(
        **{name: options[name] for name in names},
        image_check=checks[options["check_images"]],
    )


def task_of(options: dict[str, Any]) -> Task:
    """Return the task of a command's options."""
    from numclip.tasks import described_task

    flags = {name: options[name] for name in TASK_FLAGS if options[name] is not None}
    return described_task(options["task"], flags)
