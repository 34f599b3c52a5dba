"""`numclip-train`: train a NumCLIP model on labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from numclip.cli.options import (
    COUNT,
    DATA_OPTIONS,
    NUMBER,
    PROMPT_OPTIONS,
    QUICK_GELU_OPTION,
    RATE,
    TASK_OPTIONS,
    add,
    config_of,
    data_config,
    options_of,
    task_of,
)
from numclip.model.model_config import PromptConfig
from numclip.model.preprocessing import PreprocessingConfig
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.run import TrainOptions, train
from numclip_runtime import Task, __version__
from numclip_runtime.console import FILE, SETTINGS, Command, exit_on_error, show, visible
from numclip_runtime.errors import require_installed
from numclip_runtime.files import refuse_overwriting

MODEL_OPTIONS = add(
    click.option("-o", "--output", type=FILE, default=TrainOptions.output),
    options_of(
        TrainOptions,
        backbone="open_clip architecture or config (.json), or timm/NAME.",
        pretrained="open_clip tag or weights file.  [default: random weights]",
    ),
    QUICK_GELU_OPTION,
    options_of(
        TrainOptions,
        regressor=(
            click.Choice(["released", "bounded"]),
            "Fine regressor: as in the released code, or kept inside each bin.",
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
        prototypes="Their start.  [default: text, where there are pretrained words]",
        logit_scale=(click.FloatRange(0, min_open=True), "[default: backbone's]"),
    ),
)
TRAINING_OPTIONS = add(
    options_of(
        TrainConfig,
        epochs=(COUNT, ""),
        batch_size=(COUNT, ""),
        optimizer="",
        schedule="multistep: x0.1 after 30 % of the epochs.",
        warmup_steps=(NUMBER, ""),
        weight_decay=(RATE, ""),
    ),
    options_of(
        LearningRates,
        "lr_",
        image=(RATE, "Learning rate; 0 freezes."),
        text=(RATE, ""),
        context=(RATE, ""),
        rank=(RATE, ""),
        adapter=(RATE, ""),
        regressor=(RATE, ""),
    ),
    options_of(
        TrainConfig,
        loss_mode="Ranking losses: as in the released code, the same for any sign and batch, or "
        "unweighted; or rps, a proper ordinal score in their place, for any head.",
        target_width=(
            click.FloatRange(0, min_open=True),
            "Of --head distribution's soft targets (label units).  [default: 2 % of the range]",
        ),
        regression_weight=(RATE, "Weight of the L1 loss (label units)."),
    ),
    options_of(
        PreprocessingConfig,
        resize=(COUNT, "Before the crop.  [default: 8/7 of it]"),
        resize_mode="",
        interpolation="",
        normalize="Pixel statistics: ImageNet's as in the paper, or those of the tower's training: "
        "CLIP's, or 0.5 (SigLIP).",
    ),
    options_of(
        TrainConfig,
        workers=(NUMBER, "Image loading processes."),
        seed="",
        accumulate=(COUNT, "Batches per update."),
        precision="The paper used 16-mixed, which needs a GPU.",
        patience=(NUMBER, "Epochs; 0: no early stop."),
    ),
)
RUN_OPTIONS = options_of(
    TrainOptions,
    run_dir="Logs and resume files.  [default: OUTPUT's .run]",
    resume="Go on from the last finished epoch of the run.",
    restart="Discard an unfinished run and start anew.",
    tensorboard="Write TensorBoard logs as well.",
)


@click.command(cls=Command, context_settings=SETTINGS)
@add(DATA_OPTIONS, TASK_OPTIONS, MODEL_OPTIONS, TRAINING_OPTIONS, RUN_OPTIONS)
@click.version_option(__version__)
def main(**given: Any) -> None:
    """Train a model that reads an ordered number off images; keeps the best validation MAE.

    Exit codes: 0 trained, 2 wrong use or bad data, 130, 143 or 129 stopped by Ctrl-C, SIGTERM or
    SIGHUP: --resume goes on after the last finished epoch.
    """
    with exit_on_error():
        require_installed("train", "torch", "torchvision", "open_clip", "pytorch_lightning")
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
        refuse_overwriting(options.output, _files(options, given["task"]), "an input")
        result = train(options)
        if result is None:
            return
        validation = _line(result.checkpoint.metrics, options.task)
        show(f"{options.output}: validation {validation}")
        show(result.calibration)
        if result.test is not None:
            show(f"test {_line(result.test, options.task)}")


def _files(options: TrainOptions, task: str | None) -> Iterator[str | Path]:
    """Yield what the options name; some are names of presets, and no files."""
    data = options.data
    yield from filter(None, (data.train, data.val, data.test, task))
    yield from filter(None, (options.backbone, options.pretrained))


def _line(metrics: Mapping[str, float], task: Task) -> str:
    mae = f"MAE {task.number(metrics['mae'], 3)} {visible(task.unit)}".rstrip()
    rmse = task.number(metrics["rmse"], 3)
    return f"{mae}, RMSE {rmse}, bin accuracy {metrics['bin_accuracy']:.1%}"


if __name__ == "__main__":
    main()
