"""`numclip-zeroshot`: a coarse predictor from pretrained CLIP and the task's phrases, untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from numclip.cli.options import (
    CALIBRATION_OPTIONS,
    CHECKPOINTS,
    QUICK_GELU_OPTION,
    table_options,
)
from numclip.model.architectures import check_backbone, check_pretrained
from numclip.model.model_config import DEFAULT_BACKBONE
from numclip.torchvision_compat import require_training
from numclip_runtime import __version__
from numclip_runtime.commands import GroupedCommand, Output, group
from numclip_runtime.console import SETTINGS, exit_on_error, show
from numclip_runtime.errors import require_installed
from numclip_runtime.files import refuse_overwriting, require_writable


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "--task age --pretrained openai",
        "--task my-task.toml --pretrained openai --val val.csv",
    ),
)
@group(
    "Model",
    click.option("--task", required=True, help="Preset (age, quality, ...) or a .toml file."),
    click.option(
        "--backbone", default=DEFAULT_BACKBONE, help="open_clip architecture or config (.json)."
    ),
    click.option("--pretrained", required=True, help="open_clip tag (openai) or a weights file."),
    QUICK_GELU_OPTION,
    click.option(
        "-o",
        "--output",
        type=Output("zeroshot.pt", CHECKPOINTS),
        default=Path("zeroshot.pt"),
        help="Name ending in .pt or .safetensors, or a folder.",
    ),
)
@group("Intervals", CALIBRATION_OPTIONS)
@click.version_option(__version__)
def main(
    task: str,
    backbone: str,
    pretrained: str,
    quick_gelu: bool | None,
    output: Path,
    val: Path | None,
    root: Path | None,
    group_column: str | None,
    **given: Any,
) -> None:
    """Make a checkpoint that reads numbers without any training; export it like a trained one.

    Each image is compared with the sentences "{context} {phrase}."; its number is the bins' mean
    by probability. Exit codes: 0 written, 2 wrong use or bad data.
    """
    with exit_on_error():
        require_installed("train", "torch", "open_clip")
        from numclip.tasks import load_task  # needs tomli on Python 3.10

        described = load_task(task)
        check_backbone(backbone)
        check_pretrained(pretrained)
        require_training()
        from numclip.checkpoint import check_output, save_checkpoint
        from numclip.evaluation.calibration import calibrate_on
        from numclip.importers.pretrained import zero_shot

        check_output(output)
        require_writable(output)
        refuse_overwriting(output, filter(None, (task, backbone, pretrained, val)), "an input")
        untrained = zero_shot(described, backbone, pretrained, quick_gelu=quick_gelu)
        table = table_options(given)
        checkpoint, line = calibrate_on(untrained, val, root, table, group_column=group_column)
        save_checkpoint(output, checkpoint)
        show(f"{output}: {checkpoint.task.num_bins} bins from {backbone} {pretrained}, untrained")
        if line is not None:
            show(line)
