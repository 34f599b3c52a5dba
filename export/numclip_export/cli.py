"""`numclip-export`: from a checkpoint to a verified model file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from numclip.cli import require
from numclip_runtime import UsageError, __version__
from numclip_runtime.cli import errors_as_exit_code_2

FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--ckpt", type=FILE, required=True, help="Checkpoint of numclip-train.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Folder, or a name ending in .onnx.  [default: beside the checkpoint]",
)
@click.option("--opset", type=click.IntRange(17, 23), default=18, help="ONNX operator set.")
@click.option(
    "--atol",
    type=click.FloatRange(0),
    help="Largest difference of a value, label units.  [default: 1e-5 of the label range]",
)
@click.option(
    "--verify-data",
    type=FILE,
    help="Folder of images or CSV file.  [default: the checkpoint's validation data]",
)
@click.version_option(__version__)
def main(
    ckpt: Path, output: Path | None, opset: int, atol: float | None, verify_data: Path | None
) -> None:
    """Fold the text tower into the head, write ONNX, and prove that it equals the checkpoint.

    Exit codes: 0 written and equal, 1 different (nothing is left behind), 2 wrong use.
    """
    with errors_as_exit_code_2():
        require("export,cpu", "torch", "open_clip", "onnx", "onnxscript", "onnxruntime")
        target = onnx_target(ckpt, output)
        from numclip_export.export import export
        from numclip_export.parity import ParityError

        try:
            done = export(ckpt, target, opset=opset, atol=atol, verify_data=verify_data)
        except ParityError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
    before, after = done.details["checkpoint"], done.details["onnx"]
    click.echo(
        f"{ckpt}: {sum(before['parameters'].values()) / 1e6:.2f} M parameters "
        f"({before['parameters']['text_encoder'] / 1e6:.2f} M in the text tower), "
        f"{before['bytes'] / 1e6:.1f} MB"
    )
    click.echo(
        f"{done.onnx}: {after['parameters'] / 1e6:.2f} M parameters, {after['bytes'] / 1e6:.1f} MB"
    )
    click.echo(
        f"parity on {done.parity.images} {done.parity.source} images: values within "
        f"{done.parity.max_value_error:.2g} (allowed {done.parity.value_tolerance:.2g}), "
        f"probabilities within {done.parity.max_prob_error:.2g}; see {done.report}"
    )


def onnx_target(ckpt: Path, output: Path | None) -> Path:
    """Return the path of the ONNX file for `--output`, a folder or a name ending in .onnx.

    Raises:
        UsageError: if the folder does not exist.
    """
    if output is None:
        return ckpt.with_suffix(".onnx")
    target = output if output.suffix == ".onnx" else output / f"{ckpt.stem}.onnx"
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder; create it first.")
    return target
