"""`numclip-distill`: teach a smaller network the numbers of a larger one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from numclip.cli.options import (
    CHECKPOINTS,
    COUNT,
    NUMBER,
    QUICK_GELU_OPTION,
    RATE,
    SHARE,
    TABLE_OPTIONS,
    changed,
    config_of,
    options_of,
)
from numclip.cli.run_file import CONFIG_OPTION, run_file
from numclip.data.prepare import DataConfig
from numclip.distillation.distill_options import DistillOptions, TradeError
from numclip.distillation.distillation import distill
from numclip.model.preprocessing import Statistics
from numclip.training.config import TrainConfig
from numclip_runtime import __version__
from numclip_runtime.commands import GroupedCommand, Output, add, group
from numclip_runtime.console import FILE, SETTINGS, exit_on_error, say, visible
from numclip_runtime.errors import require_installed

NO_TRADE = 1  # exit code

STUDENT_OPTIONS = add(
    click.option(
        "--teacher",
        "--ckpt",
        "teacher",
        type=FILE,
        help="Checkpoint of numclip-train, in place of TEACHER.",
    ),
    click.option(
        "--student",
        help="open_clip architecture or config (.json), or timm/NAME; or a checkpoint (.pt, "
        ".safetensors) of the same task.",
    ),
    options_of(
        DistillOptions,
        pretrained="open_clip tag or weights file for the student.  [default: random weights]",
        head="As of numclip-train.  [default: the teacher's]",
        features="Of timm/NAME: the last level, pooled, or mean and spread of every level.  "
        "[default: last]",
        image_size=(COUNT, "Side, pixels, for timm/NAME.  [default: timm's record]"),
    ),
    QUICK_GELU_OPTION,
    options_of(
        DistillOptions,
        resize=(COUNT, "Before the crop.  [default: as much beyond it as the teacher's]"),
        normalize=(
            click.Choice(get_args(Statistics)),
            "Pixel statistics.  [default: the teacher's]",
        ),
    ),
)
TAUGHT_OPTIONS = add(
    options_of(
        DistillOptions,
        images="Folder of images, searched recursively, or a pattern; no labels are needed.",
        data="Labelled images to learn from as well, as for numclip-train.",
        val="Labelled images that are held out: they choose the epoch, and fit the intervals.",
        test="The same, on which the trade is judged.",
        root="Where paths of labelled images start.  [default: the file's folder]",
        val_share=(SHARE, "Without --val: share of --data, or else of --images, that is held out."),
        calibration_share=(
            click.FloatRange(0, 1, max_open=True),
            "Share of the held-out images that is kept for the intervals alone.  [default: half, "
            "if there are enough]",
        ),
    ),
    TABLE_OPTIONS,
    options_of(
        DistillOptions,
        group_column="Column, such as person, that no two sets may share.",
    ),
    click.option(
        "--check-images/--no-check-images",
        default=None,
        help="Decode every image before training, or check none.  [default: file headers]",
    ),
    options_of(DistillOptions, skip_broken="Leave broken images out."),
)
TEACHING_OPTIONS = add(
    options_of(
        DistillOptions,
        temperature=(
            click.FloatRange(0, min_open=True),
            "Of both networks' logits, in the divergence of their bins.",
        ),
        value_weight=(RATE, "Of the distance of both numbers, a share of the range, against that."),
        label_weight=(RATE, "Of numclip-train's losses on labelled images, against both."),
    ),
    click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        help="Learning rate of the student's tower; other rates keep their ratio to it.",
    ),
    options_of(
        TrainConfig,
        flags={"flip": "--flip/--no-flip"},
        optional=True,
        epochs=(COUNT, ""),
        batch_size=(COUNT, ""),
        flip="Mirror half of the training images; not where that changes the number.",
        seed="",
        accumulate=(COUNT, "Batches per update."),
        precision="16-mixed needs a GPU.",
        patience=(NUMBER, "Epochs without progress; 0: no early stop."),
        workers=(NUMBER, "Image loading processes."),
    ),
)
TRADE_OPTIONS = add(
    options_of(
        DistillOptions,
        max_loss=(
            RATE,
            "What may be lost, label units: of the MAE with labels, else of the mean difference to "
            "the teacher.  [default: a quarter, else half of the teacher's MAE]",
        ),
    ),
    click.option(
        "-o",
        "--output",
        type=Output(DistillOptions.output.name, CHECKPOINTS),
        default=DistillOptions.output,
        help="Name ending in .pt or .safetensors, or a folder. The report lies beside it.",
    ),
    CONFIG_OPTION,
    options_of(
        DistillOptions,
        run_dir="Logs and resume files.  [default: OUTPUT's .run]",
        resume="Go on from the last finished epoch of the run.",
        restart="Discard an unfinished run and start anew.",
    ),
)


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "big.pt photos/ --student small.json --max-loss 0.5",
        "big.pt photos/ --student timm/mobilenetv2_050",
        "big.pt train.csv --val val.csv --student small.pt",
    ),
)
@click.argument("files", nargs=-1, type=FILE, metavar="TEACHER IMAGES")
@group("Models", STUDENT_OPTIONS)
@group("Data", TAUGHT_OPTIONS)
@group("Training (defaults: as numclip-train's)", TEACHING_OPTIONS)
@group("Trade and run", TRADE_OPTIONS)
@click.version_option(__version__)
def main(files: tuple[Path, ...], **given: Any) -> None:
    """Teach a smaller network the numbers of a larger one, and say what that costs.

    TEACHER is a checkpoint. IMAGES are a folder of images without labels, or a table of labelled
    ones. The student is written only if it is faster and loses no more than --max-loss.

    Exit codes: 0 written, 1 no trade: slower, or too much is lost; 2 wrong use or bad data, 130,
    143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP: --resume goes on after the last finished epoch.
    """
    with exit_on_error():
        given |= given_files(files, given)
        require_installed("train", "torch", "torchvision", "open_clip", "pytorch_lightning")
        options = distill_options(given)
        try:
            distill(options, run_file=_run_file(options, given))
        except TradeError as error:
            say(f"No trade: {error}")
            sys.exit(NO_TRADE)


def given_files(files: Sequence[Path], given: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files without an option as the values of --teacher, and --images or --data.

    Raises:
        UsageError: of click's, if one is missing or too many.
    """
    left, found, context = list(files), dict[str, Path](), click.get_current_context()
    if given["teacher"] is None:
        if not left:
            context.fail("Missing option '--teacher', the checkpoint: give it first.")
        found["teacher"] = left.pop(0)
    if given["student"] is None:
        context.fail("Missing option '--student', the smaller network.")
    if left and given["images"] is None and given["data"] is None:
        table = left[0].is_file() or left[0].suffix.lower() == ".tar"
        found["data" if table else "images"] = left.pop(0)
    if left:
        context.fail(f"Got unexpected extra argument ({visible(left[0])}).")
    return found


def distill_options(given: Mapping[str, Any]) -> DistillOptions:
    """Return what the options of the command say; those of training change the recipe's."""
    check = {None: DataConfig.image_check, True: "decode", False: "none"}[given["check_images"]]
    options = config_of(DistillOptions, given, image_check=check)
    training = options.recipe()
    rates = training.rates if given["lr"] is None else training.rates.scaled(given["lr"])
    return replace(options, training=changed(training, given, rates=rates))


def _run_file(options: DistillOptions, given: Mapping[str, Any]) -> str:
    """Return the text of run.toml: what was given, and what the recipe set."""
    params = click.get_current_context().command.params
    named = {param.name for param in params}
    training = {name: value for name, value in vars(options.training).items() if name in named}
    values = {**given, **training, "lr": options.training.rates.image if options.training else None}
    return run_file(
        [param for param in params if isinstance(param, click.Option)], values, "numclip-distill"
    )


if __name__ == "__main__":
    main()
