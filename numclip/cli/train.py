"""`numclip-train`: train a NumCLIP model on labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from numclip.cli.options import (
    COUNT,
    DATA_OPTIONS,
    NUMBER,
    PROMPT_OPTIONS,
    QUICK_GELU_OPTION,
    RATE,
    TASK_OPTIONS,
    changed,
    config_of,
    data_config,
    options_of,
    task_of,
)
from numclip.cli.run_file import CONFIG_OPTION, run_file
from numclip.model.model_config import PromptConfig
from numclip.model.preprocessing import PreprocessingConfig
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.loggers import LoggerName
from numclip.training.recipes import recipe_of
from numclip.training.run import TrainOptions, train
from numclip_runtime import Task, UsageError, __version__
from numclip_runtime.commands import GroupedCommand, Output, add, group
from numclip_runtime.console import FILE, SETTINGS, exit_on_error, show, visible
from numclip_runtime.errors import require_installed
from numclip_runtime.files import refuse_overwriting

MODEL_OPTIONS = add(
    options_of(
        TrainOptions,
        backbone="open_clip architecture or config (.json), or timm/NAME.",
        pretrained="open_clip tag or weights file.  [default: random weights]",
        features="Of timm/NAME: the last level, pooled, or mean and spread of every level.  "
        "[default: levels for a probe of a convolutional tower, else last]",
        image_size=(COUNT, "Side, pixels, for timm/NAME.  [default: timm's record]"),
    ),
    QUICK_GELU_OPTION,
    options_of(
        TrainOptions,
        regressor=(
            click.Choice(["released", "bounded"]),
            "Fine regressor: as in the released code (always 0 in a bin that begins at 0), or kept "
            "inside each bin (never quite at its edges).  "
            "[default: the recipe's]",
        ),
        adapter_width=(COUNT, "[default: a quarter of the features']"),
    ),
    PROMPT_OPTIONS,
    options_of(
        TrainOptions,
        head="numclip: bins, refined; distribution: over a grid of numbers; probe: linear in the "
        "tower's features, in closed form.",
        grid_points=(
            click.IntRange(2),
            "Of --head distribution.  [default: whole numbers of a range up to 200, else 101]",
        ),
        vectors="What images are compared with: sentences, or learned vectors (no text tower).",
        prototypes="Where learned vectors start.  [default: text, where there are pretrained "
        "words]",
        logit_scale=(click.FloatRange(0, min_open=True), "[default: backbone's]"),
        skip_probe="With --pretrained, do not measure what a linear probe of the tower reaches.",
    ),
    options_of(
        PreprocessingConfig,
        resize=(COUNT, "Before the crop.  [default: 8/7 of it]"),
        resize_mode="fragments: pieces at full resolution, which show blur, noise and compression.",
        fragments=(COUNT, "Along a side, of --resize-mode fragments; their features are averaged."),
        interpolation="",
        normalize="Pixel statistics: ImageNet's as in the paper, or those of the tower's training: "
        "CLIP's, or 0.5 (SigLIP).",
    ),
)
RECIPE_OPTIONS = add(
    options_of(
        TrainOptions,
        recipe="How to train. finetune: from pretrained weights. scratch: from none. morph, "
        "historical, aesthetics: as the paper did. auto: finetune with --pretrained, else scratch.",
    ),
    click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        help="Learning rate of the image tower; the recipe's other rates keep their ratio to it.",
    ),
    options_of(
        TrainConfig,
        optional=True,
        epochs=(COUNT, ""),
        batch_size=(COUNT, ""),
        optimizer="",
        schedule="",
        drop_at=(
            NUMBER,
            "Epoch from which on multistep has x0.1; if nothing sets it, after 30 % of all.",
        ),
        warmup_steps=(NUMBER, ""),
        weight_decay=(RATE, ""),
    ),
    options_of(
        LearningRates,
        "lr_",
        optional=True,
        image=(RATE, "Learning rate of a part; 0 freezes it."),
        text=(RATE, ""),
        context=(RATE, ""),
        rank=(RATE, ""),
        adapter=(RATE, ""),
        regressor=(RATE, ""),
    ),
    options_of(
        TrainConfig,
        flags={"flip": "--flip/--no-flip"},
        optional=True,
        flip="Mirror half of the training images; not where that changes the number: dials, text.",
        loss_mode="Ranking losses: as in the released code; the same for any sign and batch, "
        "though they too pull uncertain images to the middle; or unweighted, which do not. rps: a "
        "proper ordinal score in their place, for any head.",
        target_width=(
            click.FloatRange(0, min_open=True),
            "Of --head distribution's soft targets, label units; if nothing sets it, 2 % of the "
            "range.",
        ),
        regression_weight=(RATE, "Weight of the L1 loss (label units)."),
        regression_unit="Unit of the L1 loss: the labels', or their mean distance from their "
        "median.",
        tune="What is trained of the image tower: all, its last layer, low-rank updates, nothing.",
        lora_rank=(COUNT, "Of --tune lora, which it implies."),
        seed="",
        accumulate=(COUNT, "Batches per update."),
        precision="The paper used 16-mixed, which needs a GPU.",
        patience=(NUMBER, "Epochs without progress; 0: no early stop."),
        workers=(NUMBER, "Image loading processes."),
    ),
)
RUN_OPTIONS = add(
    click.option(
        "-o",
        "--output",
        type=Output(TrainOptions.output.name),
        default=TrainOptions.output,
        help="Name ending in .pt or .safetensors, or a folder.",
    ),
    CONFIG_OPTION,
    options_of(
        TrainOptions,
        run_dir="Logs and resume files.  [default: OUTPUT's .run]",
        resume="Go on from the last finished epoch of the run.",
        restart="Discard an unfinished run and start anew.",
    ),
    click.option(
        "--logger",
        "loggers",
        type=click.Choice(get_args(LoggerName)),
        multiple=True,
        help="Log there as well; repeat.",
    ),
    options_of(TrainOptions, tensorboard="The same as --logger tensorboard."),
)


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "train.csv --val val.csv --task age --pretrained openai",
        "train.csv --val-share 0.2 --task task.toml --backbone net.json",
        "train.csv --val-share 0.2 --group-column person --task age \\\n"
        "      --backbone timm/mobilenetv2_100 --pretrained mobilenet.safetensors \\\n"
        "      --head probe --features levels",
        "--config run.toml",
    ),
)
@click.argument("images", type=FILE, required=False)
@group("Data", DATA_OPTIONS)
@group("Task", TASK_OPTIONS)
@group("Model and its input", MODEL_OPTIONS)
@group("Training (defaults: the recipe's)", RECIPE_OPTIONS)
@group("Run", RUN_OPTIONS)
@click.version_option(__version__)
def main(images: Path | None, **given: Any) -> None:
    """Train a model that reads an ordered number off images; keeps the best validation MAE.

    IMAGES are labelled: a table, a folder for each bin or number, or tars.

    Exit codes: 0 trained, 2 wrong use or bad data, 130, 143 or 129 stopped by Ctrl-C, SIGTERM or
    SIGHUP: --resume goes on after the last finished epoch.
    """
    with exit_on_error():
        given["train"] = one_train(images, given["train"])
        require_installed("train", "torch", "torchvision", "open_clip", "pytorch_lightning")
        options = train_options(given)
        refuse_overwriting(options.output, _files(options, given), "an input")
        result = train(options, run_file=_run_file(options, given))
        if result is None:
            return
        validation = _line(result.checkpoint.metrics, options.task)
        show(f"{options.output}: validation {validation}")
        show(result.calibration)
        if result.test is not None:
            show(f"test {_line(result.test, options.task)}")


def one_train(images: Path | None, train: Path | None) -> Path:
    """Return the one source of training images that is given, with or without its option.

    Raises:
        UsageError: of click's, if there is none, or two.
    """
    if images is not None and train is not None:
        at_command_line = click.core.ParameterSource.COMMANDLINE
        if click.get_current_context().get_parameter_source("train") is at_command_line:
            click.get_current_context().fail("Give the training images once: IMAGES or --train.")
    if (found := images or train) is None:
        click.get_current_context().fail("Missing option '--train', the labelled images.")
    return found


# Options that have an effect only with one choice of another option
ONLY_WITH = {
    "regressor": ("head", "numclip"),
    "grid_points": ("head", "distribution"),
    "target_width": ("head", "distribution"),
    "prototypes": ("vectors", "prototypes"),
    "lora_rank": ("tune", "lora"),
}


def train_options(given: Mapping[str, Any]) -> TrainOptions:
    """Return what the options of the command say; those of training change the recipe's.

    Raises:
        UsageError: if an option has no effect beside the others.
    """
    if given["lora_rank"] is not None and given["tune"] is None:
        given = {**given, "tune": "lora"}
    for name, (other, choice) in ONLY_WITH.items():
        if given[name] is not None and given[other] != choice:
            option, needed = (f"--{part}".replace("_", "-") for part in (name, other))
            raise UsageError(f"{option} has an effect with {needed} {choice} only; leave it out.")
    if given["loss_mode"] not in (None, "rps") and given["head"] != "numclip":
        raise UsageError(
            f"--loss-mode {given['loss_mode']} has an effect with --head numclip only; leave it "
            "out, or give rps."
        )
    training = recipe_of(
        given["recipe"], given["pretrained"], given["backbone"], given["head"], given["tune"]
    ).training
    if given["regression_weight"] is not None:  # in label units, unless another is given as well
        training = replace(training, regression_unit="label")
    rates = training.rates if given["lr"] is None else training.rates.scaled(given["lr"])
    training = changed(training, given, rates=changed(rates, given, prefix="lr_"))
    return config_of(
        TrainOptions,
        given,
        prompts=config_of(PromptConfig, given),
        task=task_of(given),
        data=data_config({**given, "seed": training.seed}),
        preprocessing=config_of(PreprocessingConfig, given),
        training=training,
    )


def _run_file(options: TrainOptions, given: Mapping[str, Any]) -> str:
    """Return the text of run.toml: what was given, and what the recipe set."""
    resolved = options.resolved()
    values = {**given, "regressor": resolved.regressor, **vars(resolved.training)}
    values["features"] = resolved.features
    values |= {f"lr_{part}": rate for part, rate in vars(values["rates"]).items()}
    values |= {name: None for name, (other, one) in ONLY_WITH.items() if values[other] != one}
    if values["head"] != "numclip" and values["loss_mode"] != "rps":
        values["loss_mode"] = None
    params = [p for p in click.get_current_context().command.params if p.name != "lr"]
    return run_file(params, values)


def _files(options: TrainOptions, given: Mapping[str, Any]) -> Iterator[str | Path]:
    """Yield what the options name; some are names of presets, and no files."""
    data = options.data
    yield from filter(None, (data.train, data.val, data.test, given["task"], given["config"]))
    yield from filter(None, (options.backbone, options.pretrained))


def _line(metrics: Mapping[str, float], task: Task) -> str:
    mae = f"MAE {task.number(metrics['mae'], 3)} {visible(task.unit)}".rstrip()
    rmse = task.number(metrics["rmse"], 3)
    return f"{mae}, RMSE {rmse}, bin accuracy {metrics['bin_accuracy']:.1%}"


if __name__ == "__main__":
    main()
