"""`numclip-zeroshot`: a coarse predictor from pretrained CLIP and the task's phrases, untrained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from numclip.cli.train import STATISTICS, image_size
from numclip.evaluation.calibrated import calibrated_on, calibration_options
from numclip_runtime import Preprocessing, UsageError, __version__
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require

if TYPE_CHECKING:
    from numclip.checkpoint import Checkpoint


@click.command(context_settings=SETTINGS)
@click.option("--task", required=True, help="Preset (age, quality, ...) or a task file (.toml).")
@click.option("--backbone", default="ViT-B-16", help="open_clip architecture or config (.json).")
@click.option("--pretrained", required=True, help="open_clip tag (openai) or a weights file.")
@click.option("--quickgelu/--gelu", "quick_gelu", default=None, help="[default: the backbone's]")
@click.option("-o", "--output", type=FILE, default=Path("zeroshot.pt"))
@calibration_options
@click.version_option(__version__)
def main(
    task: str,
    backbone: str,
    pretrained: str,
    quick_gelu: bool | None,
    output: Path,
    val: Path | None,
    root: Path | None,
) -> None:
    """Make a checkpoint that reads numbers without any training; export it like a trained one.

    Each image is compared with the sentences "{context} {phrase}."; its number is the bins' mean
    by probability. Exit codes: 0 written, 2 wrong use or bad data.
    """
    with exit_on_error():
        require("train", "torch", "torchvision", "open_clip")
        if output.suffix not in (".pt", ".safetensors"):
            raise UsageError(f"{output}: the name must end in .pt or .safetensors.")
        from numclip.checkpoint import save_checkpoint

        done, line = calibrated_on(
            zero_shot(task, backbone, pretrained, quick_gelu=quick_gelu), val, root
        )
        save_checkpoint(output, done)
    click.echo(f"{output}: {done.task.num_bins} bins from {backbone} {pretrained}, untrained")
    if line is not None:
        click.echo(line)


def zero_shot(
    task: str, backbone: str, pretrained: str, *, quick_gelu: bool | None = None
) -> Checkpoint:
    """Return a checkpoint of pretrained CLIP: adapter bypassed, no regressor.

    Args:
        task: Preset or task file.
        backbone: open_clip architecture or configuration file.
        pretrained: open_clip tag or local weights file.
        quick_gelu: Activation of the weights; None: what open_clip knows of them.

    Raises:
        UsageError: if one of them is unknown or does not fit.
    """
    from numclip.checkpoint import Checkpoint
    from numclip.model.backbone import pretrained_clip
    from numclip.model.numclip import ModelConfig, NumClip
    from numclip.tasks import load_task

    described = load_task(task)
    clip, config = pretrained_clip(backbone, pretrained, quick_gelu=quick_gelu)
    model = NumClip(
        ModelConfig(config, adapter_ratio=0.0, regressor="expected"), described, clip
    ).eval()
    side = image_size(config)
    mean, std = STATISTICS["clip"]  # CLIP's own statistics and geometry: nothing was trained
    spec = Preprocessing(side, side, "shortest", "bicubic", mean, std)
    return Checkpoint(model, spec)
