"""`numclip-convert`: trained models of others as numclip checkpoints, and .pt to .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from numclip.cli.prompt_options import prompt_import_options
from numclip.evaluation.calibrated import calibrated_on, calibration_options
from numclip.model.model_config import PromptKind, RankInterpolation
from numclip_runtime import UsageError, __version__
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require

if TYPE_CHECKING:
    from numclip.checkpoint import Checkpoint


@click.command(context_settings=SETTINGS)
@click.argument("source", type=FILE)
@click.option(
    "-o", "--output", type=FILE, required=True, help="Name ending in .pt or .safetensors."
)
@click.option("--task", help="Preset (age, quality) or task file (.toml) it was trained with.")
@click.option("--base", help="CLIP weights it was trained from: open_clip tag or local file.")
@click.option("--quickgelu/--gelu", "quick_gelu", default=True, help="Activation of --base.")
@click.option(
    "--label-offset",
    type=float,
    help="Added to the model's number.  [default: the task's, or 1 for NumCLIP's labels from 1]",
)
@prompt_import_options
@calibration_options
@click.version_option(__version__)
def main(
    source: Path,
    output: Path,
    task: str | None,
    base: str | None,
    quick_gelu: bool,
    label_offset: float | None,
    prompt: PromptKind | None,
    rank_interpolation: RankInterpolation | None,
    val: Path | None,
    root: Path | None,
) -> None:
    """Convert SOURCE, a trained model of NumCLIP, OrdinalCLIP or CoOp, to a numclip checkpoint.

    Or rewrite a numclip checkpoint under another suffix. Nothing in SOURCE is executed.

    Exit codes: 0 converted, 2 wrong use or a file that cannot be converted.
    """
    with exit_on_error():
        require("train", "torch", "torchvision", "open_clip", "safetensors")
        done = convert(
            source,
            output,
            task=task,
            base=base,
            quick_gelu=quick_gelu,
            label_offset=label_offset,
            prompt=prompt,
            rank_interpolation=rank_interpolation,
            val=val,
            root=root,
        )
    edges, offset = done.task.bin_edges, done.task.label_offset
    prompts = done.model.config.prompts
    click.echo(
        f"{output}: {done.task.num_bins} bins from {edges[0] + offset:g} to "
        f"{edges[-1] + offset:g} {done.task.unit}".rstrip()
        + f", label offset {offset:g}, regressor {done.model.config.regressor}"
        + (
            f", {prompts.rank_interpolation} interpolation of {prompts.num_base_ranks} base ranks"
            if prompts.kind == "rank"
            else ""
        )
    )


def convert(
    source: Path,
    output: Path,
    *,
    task: str | None = None,
    base: str | None = None,
    quick_gelu: bool = True,
    label_offset: float | None = None,
    prompt: PromptKind | None = None,
    rank_interpolation: RankInterpolation | None = None,
    val: Path | None = None,
    root: Path | None = None,
) -> Checkpoint:
    """Read `source`, write it as numclip checkpoint `output`, and return it.

    Args:
        source: Lightning `.ckpt` of the authors' code, or a numclip checkpoint.
        output: Name ending in .pt or .safetensors.
        task: Preset or task file; needed for the authors' files, refused for numclip's.
        base: open_clip tag or weights file; needed for the authors' files, refused for numclip's.
        quick_gelu: See `foreign_checkpoint`.
        label_offset: See `foreign_checkpoint`.
        prompt: See `foreign_checkpoint`.
        rank_interpolation: See `foreign_checkpoint`.
        val: Images to calibrate on, see `calibrated_on`; prints a line about the calibration.
        root: See `calibrated_on`.

    Raises:
        ModelError: if `source` cannot be read or converted.
        UsageError: if an argument is missing or does not fit.
        ImageError: if an image of `val` cannot be read.
    """
    from numclip.checkpoint import checkpoint_from_content, save_checkpoint
    from numclip.importers.released import foreign_checkpoint
    from numclip.tasks import load_task
    from numclip.weights.reading import is_checkpoint, read_content

    if output.suffix not in (".pt", ".safetensors"):
        raise UsageError(f"{output}: the name must end in .pt or .safetensors.")
    content = read_content(source)
    if is_checkpoint(content):
        for given in (task, base, label_offset, prompt, rank_interpolation):
            if given is not None:
                raise UsageError(
                    f"{source}: a numclip checkpoint, which knows its task and prompts and needs "
                    "no --task, --base, --label-offset, --prompt or --rank-interpolation."
                )
        checkpoint = checkpoint_from_content(content, source)
    elif task is None or base is None:
        raise UsageError(
            f"{source}: no numclip checkpoint; to convert another's, give --task (its bins and "
            "phrases) and --base (the CLIP weights it was trained from, such as openai)."
        )
    else:
        checkpoint = foreign_checkpoint(
            content,
            source,
            load_task(task),
            base,
            quick_gelu=quick_gelu,
            label_offset=label_offset,
            prompt=prompt,
            rank_interpolation=rank_interpolation,
        )
    checkpoint, line = calibrated_on(checkpoint, val, root)
    save_checkpoint(output, checkpoint)
    if line is not None:
        click.echo(line)
    return checkpoint
