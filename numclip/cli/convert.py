"""`numclip-convert`: trained models of others as numclip checkpoints, and .pt to .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from numclip.cli.options import CALIBRATION_OPTIONS, CHECKPOINTS, table_options
from numclip.model.model_config import PromptKind, RankInterpolation
from numclip.torchvision_compat import require_training
from numclip_runtime import __version__
from numclip_runtime.commands import GroupedCommand, Output, group
from numclip_runtime.console import FILE, SETTINGS, exit_on_error, show
from numclip_runtime.errors import require_installed
from numclip_runtime.files import refuse_overwriting, require_writable
from numclip_runtime.model_files.given import require_checkpoint
from numclip_runtime.task import as_written


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "last.ckpt --task age --base openai -o checkpoint.pt",
        "last.ckpt --task age --base openai -o models/ --val val.csv",
        "checkpoint.pt -o checkpoint.safetensors",
    ),
)
@click.argument("source", type=FILE, required=False)
@group(
    "Files",
    click.option("--ckpt", type=FILE, help="The trained model, in place of SOURCE."),
    click.option(
        "-o",
        "--output",
        type=Output("checkpoint.pt", CHECKPOINTS),
        required=True,
        help="Name ending in .pt or .safetensors, or a folder.",
    ),
)
@group(
    "What the file does not hold",
    click.option("--task", help="Preset (age, quality) or task file (.toml) it was trained with."),
    click.option("--base", help="CLIP weights it was trained from: open_clip tag or local file."),
    click.option("--quickgelu/--gelu", "quick_gelu", default=True, help="Activation of --base."),
    click.option(
        "--label-offset",
        type=float,
        help="Added to the model's number.  [default: the task's, or 1 for NumCLIP's labels from "
        "1]",
    ),
    click.option(
        "--prompt",
        type=click.Choice(get_args(PromptKind)),
        help="plain: words per bin; rank: interpolated from base ranks.  [default: plain where "
        "ranks are as many as bins]",
    ),
    click.option(
        "--rank-interpolation",
        type=click.Choice(get_args(RankInterpolation)),
        help="Of --prompt rank; in no file.  [default: linear]",
    ),
)
@group("Intervals", CALIBRATION_OPTIONS)
@click.version_option(__version__)
def main(
    source: Path | None,
    ckpt: Path | None,
    output: Path,
    val: Path | None,
    root: Path | None,
    group_column: str | None,
    **given: Any,
) -> None:
    """Convert SOURCE, a trained model of NumCLIP, OrdinalCLIP or CoOp, to a numclip checkpoint.

    Or rewrite a numclip checkpoint under another suffix. Nothing in SOURCE is executed.

    Exit codes: 0 converted, 2 wrong use or a file that cannot be converted.
    """
    with exit_on_error():
        source = one_source(source, ckpt)
        require_installed("train", "torch", "open_clip", "safetensors")
        require_checkpoint(source, "give the checkpoint that it was exported from", missing="")
        require_training("safetensors")
        from numclip.checkpoint import check_output, save_checkpoint
        from numclip.evaluation.calibration import calibrate_on
        from numclip.importers.released import convert

        table = table_options(given)
        check_output(output)
        require_writable(output)
        refuse_overwriting(
            output, filter(None, (source, given["task"], given["base"], val)), "an input"
        )
        converted = convert(source, **given)
        checkpoint, line = calibrate_on(converted, val, root, table, group_column=group_column)
        save_checkpoint(output, checkpoint)
        if line is not None:
            show(line)
        edges, offset = checkpoint.task.bin_edges, checkpoint.task.label_offset
        config = checkpoint.model.config
        show(
            f"{output}: {checkpoint.task.num_bins} bins from {as_written(edges[0] + offset)} to "
            f"{as_written(edges[-1] + offset)} {checkpoint.task.unit}".rstrip()
            + f", label offset {as_written(offset)}, regressor {config.regressor}"
            + (
                f", {config.prompts.rank_interpolation} interpolation of "
                f"{config.prompts.num_base_ranks} base ranks"
                if config.prompts.kind == "rank"
                else ""
            )
        )


def one_source(source: Path | None, ckpt: Path | None) -> Path:
    """Return the one file that is given, with or without its option."""
    if (file := source or ckpt) is None or (source and ckpt):
        click.get_current_context().fail("Give one trained model: SOURCE.")
    return file
