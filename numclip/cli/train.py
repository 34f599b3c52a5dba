"""`numclip-train`: train a NumCLIP model on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import click

from numclip.cli.options import (
    COUNT,
    DATA_OPTIONS,
    NUMBER,
    PROMPT_OPTIONS,
    TASK_OPTIONS,
    add,
    config_of,
    data_config,
    option,
    task_of,
)
from numclip.model.model_config import PromptConfig
from numclip.model.preprocessing import STATISTICS, PreprocessingConfig
from numclip.training.config import (
    LearningRates,
    LossMode,
    Optimizer,
    Schedule,
    TrainConfig,
    TrainPrecision,
)
from numclip.training.run import TrainOptions, train
from numclip_runtime import __version__
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require
from numclip_runtime.metadata import Interpolation, ResizeMode

RATE = click.FloatRange(0)
MODEL_OPTIONS = add(
    click.option("-o", "--output", type=FILE, default=TrainOptions.output),
    option(TrainOptions, "backbone", help="open_clip architecture or config (.json)."),
    option(
        TrainOptions, "pretrained", help="open_clip tag or weights file.  [default: random weights]"
    ),
    option(TrainOptions, "quick_gelu", "--quickgelu/--gelu", help="[default: the backbone's]"),
    option(
        TrainOptions,
        "regressor",
        type=click.Choice(["released", "bounded"]),
        help="Fine regressor: as in the released code, or kept inside each bin.",
    ),
    option(TrainOptions, "adapter_width", type=COUNT, help="[default: a quarter of the features']"),
    PROMPT_OPTIONS,
    option(
        TrainOptions,
        "logit_scale",
        type=click.FloatRange(0, min_open=True),
        help="[default: backbone's]",
    ),
)
RATE_OPTIONS = add(
    option(LearningRates, "image", prefix="lr_", type=RATE, help="Learning rate; 0 freezes."),
    *(
        option(LearningRates, part, prefix="lr_", type=RATE)
        for part in ("text", "context", "rank", "adapter", "regressor")
    ),
)
TRAINING_OPTIONS = add(
    option(TrainConfig, "epochs", type=COUNT),
    option(TrainConfig, "batch_size", type=COUNT),
    option(TrainConfig, "optimizer", type=click.Choice(get_args(Optimizer))),
    option(
        TrainConfig,
        "schedule",
        type=click.Choice(get_args(Schedule)),
        help="multistep: x0.1 after 30 % of the epochs.",
    ),
    option(TrainConfig, "warmup_steps", type=NUMBER),
    option(TrainConfig, "weight_decay", type=RATE),
    RATE_OPTIONS,
    option(
        TrainConfig,
        "loss_mode",
        type=click.Choice(get_args(LossMode)),
        help="Ranking losses: as in the released code, right for any sign and batch, or "
        "unweighted.",
    ),
    option(
        TrainConfig, "regression_weight", type=RATE, help="Weight of the L1 loss (label units)."
    ),
    option(
        PreprocessingConfig, "resize", type=COUNT, help="Before the crop.  [default: 8/7 of it]"
    ),
    option(PreprocessingConfig, "resize_mode", type=click.Choice(get_args(ResizeMode))),
    option(PreprocessingConfig, "interpolation", type=click.Choice(get_args(Interpolation))),
    option(
        PreprocessingConfig,
        "normalize",
        type=click.Choice(sorted(STATISTICS)),
        help="Pixel statistics: ImageNet's as in the paper, or those CLIP was trained with.",
    ),
    option(TrainConfig, "workers", type=NUMBER, help="Image loading processes."),
    option(TrainConfig, "seed", type=int),
    option(TrainConfig, "accumulate", type=COUNT, help="Batches per update."),
    option(
        TrainConfig,
        "precision",
        type=click.Choice(get_args(TrainPrecision)),
        help="The paper used 16-mixed, which needs a GPU.",
    ),
    option(TrainConfig, "patience", type=NUMBER, help="Epochs; 0: no early stop."),
)
RUN_OPTIONS = add(
    option(
        TrainOptions, "run_dir", type=FILE, help="Logs and resume files.  [default: OUTPUT's .run]"
    ),
    option(
        TrainOptions, "resume", is_flag=True, help="Go on from the last finished epoch of the run."
    ),
    option(TrainOptions, "restart", is_flag=True, help="Discard an unfinished run and start anew."),
    option(TrainOptions, "tensorboard", is_flag=True, help="Write TensorBoard logs as well."),
)


@click.command(context_settings=SETTINGS)
@add(DATA_OPTIONS, TASK_OPTIONS, MODEL_OPTIONS, TRAINING_OPTIONS, RUN_OPTIONS)
@click.version_option(__version__)
def main(**given: Any) -> None:
    """Train a model that reads an ordered number off images; keeps the best validation MAE.

    Exit codes: 0 trained, 2 wrong use or bad data.
    """
    with exit_on_error():
        require("train", "torch", "torchvision", "open_clip", "pytorch_lightning")
        options = config_of(
            TrainOptions,
            given,
            prompts=config_of(PromptConfig, given),
            task=task_of(given),
            data=data_config(given),
            preprocessing=config_of(PreprocessingConfig, given),
            training=config_of(
                TrainConfig, given, rates=config_of(LearningRates, given, prefix="lr_")
            ),
        )
        result = train(options)
    if result is None:
        return
    unit = options.task.unit
    click.echo(f"{options.output}: validation {_line(result.checkpoint.metrics, unit)}")
    click.echo(result.calibration)
    if result.test is not None:
        click.echo(f"test {_line(result.test, unit)}")


def _line(metrics: Mapping[str, float], unit: str) -> str:
    mae = f"MAE {metrics['mae']:.3f} {unit}".rstrip()
    return f"{mae}, RMSE {metrics['rmse']:.3f}, bin accuracy {metrics['bin_accuracy']:.1%}"


if __name__ == "__main__":
    main()
