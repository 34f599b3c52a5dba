"""`numclip-train`: train a NumCLIP model on labelled images."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from numclip.cli.options import data_config, data_options, task_of, task_options
from numclip.cli.prompt_options import prompt_config, prompt_options
from numclip_runtime import Preprocessing, UsageError, __version__
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require
from numclip_runtime.metadata import Interpolation, ResizeMode

if TYPE_CHECKING:
    from numclip.data.samples import Sample
    from numclip.model.numclip import NumClip

RATE = click.FloatRange(0)
PAPER_RATE = 1e-5
STATISTICS = {  # pixel mean and standard deviation, RGB
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


@click.command(context_settings=SETTINGS)
@data_options
@task_options
@click.option("-o", "--output", type=FILE, default=Path("checkpoint.pt"))
@click.option("--backbone", default="ViT-B-16", help="open_clip architecture or config (.json).")
@click.option("--pretrained", help="open_clip tag or weights file.  [default: random weights]")
@click.option("--quickgelu/--gelu", "quick_gelu", default=None, help="[default: the backbone's]")
@click.option(
    "--regressor",
    type=click.Choice(["released", "bounded"]),
    default="released",
    help="Fine regressor: as in the released code, or kept inside each bin.",
)
@click.option(
    "--adapter-width", type=click.IntRange(1), help="[default: a quarter of the features']"
)
@prompt_options
@click.option(
    "--logit-scale", type=click.FloatRange(0, min_open=True), help="[default: backbone's]"
)
@click.option("--epochs", type=click.IntRange(1), default=100)
@click.option("--batch-size", type=click.IntRange(1), default=32)
@click.option(
    "--optimizer", type=click.Choice(["radam", "radam-released", "adamw"]), default="radam"
)
@click.option(
    "--schedule",
    type=click.Choice(["multistep", "cosine", "constant"]),
    default="multistep",
    help="multistep: x0.1 after 30 % of the epochs.",
)
@click.option("--warmup-steps", type=click.IntRange(0), default=0)
@click.option("--weight-decay", type=RATE, default=0.0)
@click.option("--lr-image", type=RATE, default=PAPER_RATE, help="Learning rate; 0 freezes.")
@click.option("--lr-text", type=RATE, default=0.0)
@click.option("--lr-context", type=RATE, default=0.0)
@click.option("--lr-rank", type=RATE, default=PAPER_RATE)
@click.option("--lr-adapter", type=RATE, default=PAPER_RATE)
@click.option("--lr-regressor", type=RATE, default=PAPER_RATE)
@click.option(
    "--loss-mode",
    type=click.Choice(["released", "corrected", "plain"]),
    default="released",
    help="Ranking losses: as in the released code, right for any sign and batch, or unweighted.",
)
@click.option("--regression-weight", type=RATE, default=1.0, help="Of the L1 loss (label units).")
@click.option("--resize", type=click.IntRange(1), help="Before the crop.  [default: 8/7 of it]")
@click.option("--resize-mode", type=click.Choice(get_args(ResizeMode)), default="squash")
@click.option("--interpolation", type=click.Choice(get_args(Interpolation)), default="bilinear")
@click.option(
    "--normalize",
    type=click.Choice(sorted(STATISTICS)),
    default="imagenet",
    help="Pixel statistics: ImageNet's as in the paper, or those CLIP was trained with.",
)
@click.option("--workers", type=click.IntRange(0), default=2, help="Image loading processes.")
@click.option("--seed", type=int, default=0)
@click.option("--accumulate", type=click.IntRange(1), default=1, help="Batches per update.")
@click.option(
    "--precision",
    type=click.Choice(["32-true", "16-mixed", "bf16-mixed"]),
    default="32-true",
    help="The paper used 16-mixed, which needs a GPU.",
)
@click.option("--patience", type=click.IntRange(0), default=0, help="Epochs; 0: no early stop.")
@click.option("--run-dir", type=FILE, help="Logs and resume files.  [default: OUTPUT's .run]")
@click.option("--resume", is_flag=True, help="Go on from the last finished epoch of the run.")
@click.option("--restart", is_flag=True, help="Discard an unfinished run and start anew.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard logs, too.")
@click.version_option(__version__)
def main(**options: Any) -> None:
    """Train a model that reads an ordered number off images; keeps the best validation MAE.

    Exit codes: 0 trained, 2 wrong use or bad data.
    """
    with exit_on_error():
        require("train", "torch", "torchvision", "open_clip", "pytorch_lightning")
        run(options)


def run(options: dict[str, Any]) -> None:
    """Train as the command's options say (names as in `main`) and write the checkpoint."""
    from numclip.data.prepare import data_report, prepare_data
    from numclip.data.samples import write_csv
    from numclip.training.run_folder import check_run_folder, finish

    # Wrong use is refused first: before images are checked, files written, or torch imported.
    prompts = prompt_config(options)
    output: Path = options["output"]
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK) or output.is_dir():
        raise UsageError(f"{output}: cannot write there; the folder must exist and be writable.")
    run_dir: Path = options["run_dir"] or output.with_suffix(".run")
    first_process = os.environ.get("RANK", "0") == "0"
    if first_process:  # under torchrun, the others may come when it has begun to write
        check_run_folder(run_dir, resume=options["resume"], restart=options["restart"])
    task = task_of(options)
    data, warnings = prepare_data(data_config(options), task)
    val_source: Path = options["val"] or output.with_suffix(".val.csv")
    root: Path | None = options["root"] if options["val"] else None
    if first_process:
        click.echo(data_report(data, task))
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        if options["val"] is None:  # the split is a file, for export and for those who compare
            write_csv(val_source, data.val)

    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.evaluation.calibrated import calibrated
    from numclip.model.backbone import build_clip, clip_config, pretrained_clip
    from numclip.model.numclip import ModelConfig, NumClip
    from numclip.training.fit import LearningRates, TrainConfig, fit, seed_everything

    if options["restart"] and first_process:  # no earlier: unreadable data leave the old run alone
        finish(run_dir)
    seed_everything(options["seed"])
    if options["pretrained"]:
        clip, config = pretrained_clip(
            options["backbone"], options["pretrained"], quick_gelu=options["quick_gelu"]
        )
    else:
        config = clip_config(options["backbone"])
        if options["quick_gelu"] is not None:
            config["quick_gelu"] = options["quick_gelu"]
        clip = build_clip(config)
    preprocessing = preprocessing_of(config, options)
    form = ModelConfig(
        config,
        regressor=options["regressor"],
        adapter_width=options["adapter_width"],
        prompts=prompts,
    )
    model = NumClip(form, task, clip)
    if options["logit_scale"]:
        model.logit_scale.data.fill_(options["logit_scale"]).log_()

    rates = LearningRates(
        **{
            f.name: options[f"lr_{f.name}"]
            for f in fields(LearningRates)
            if f.name != "logit_scale"
        }
    )
    plain = {f.name: options[f.name] for f in fields(TrainConfig) if f.name != "rates"}
    best = fit(
        model,
        data.train,
        data.val,
        preprocessing,
        TrainConfig(rates=rates, **plain),
        run_dir=run_dir,
        resume=options["resume"],
        tensorboard=options["tensorboard"],
    )
    if not first_process:
        return
    place = None if root is None else str(root)
    checkpoint, calibration_line = calibrated(
        Checkpoint(model, preprocessing, best, str(val_source), place),
        data.val,
        batch_size=options["batch_size"],
        workers=options["workers"],
    )
    save_checkpoint(output, checkpoint)
    finish(run_dir)
    click.echo(
        f"{output}: validation MAE {best['mae']:.3f} {task.unit}".rstrip()
        + f", RMSE {best['rmse']:.3f}, bin accuracy {best['bin_accuracy']:.1%}"
    )
    click.echo(calibration_line)
    if data.test:
        result = measured(model, data.test, preprocessing, options["batch_size"])
        click.echo(
            f"test MAE {result['mae']:.3f} {task.unit}".rstrip()
            + f", RMSE {result['rmse']:.3f}, bin accuracy {result['bin_accuracy']:.1%}"
        )


def measured(
    model: NumClip, samples: list[Sample], preprocessing: Preprocessing, batch_size: int
) -> dict[str, float]:
    """Return the model's metrics on samples it has never seen."""
    from torch.utils.data import DataLoader

    from numclip.data.dataset import ImageDataset, evaluation_transform
    from numclip.evaluation.evaluate import evaluate

    data = ImageDataset(samples, model.task, evaluation_transform(preprocessing))
    return evaluate(model, DataLoader(data, batch_size))


def image_size(config: dict[str, Any]) -> int:
    """Return the image side that a backbone takes, pixels.

    Raises:
        UsageError: if it is rectangular.
    """
    size = config["vision_cfg"].get("image_size", 224)
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise UsageError(f"backbones with a rectangular image size {size} are not supported.")
    return int(size[0])


def preprocessing_of(config: dict[str, Any], options: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing for a backbone: its image size, and what the options choose."""
    crop = image_size(config)
    mean, std = STATISTICS[options["normalize"]]
    return Preprocessing(
        crop=crop,
        resize=options["resize"] or round(crop * 8 / 7),  # 256 for 224, as in the paper
        resize_mode=options["resize_mode"],
        interpolation=options["interpolation"],
        mean=mean,
        std=std,
    )


if __name__ == "__main__":
    main()
