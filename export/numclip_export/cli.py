"""`numclip-export`: from a checkpoint to a verified model file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from numclip.cli import require
from numclip_runtime import UsageError, __version__
from numclip_runtime.cli import errors_as_exit_code_2
from numclip_runtime.metadata import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
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
    help="Largest difference of a value, label units.  [default: 1e-5 of the label range, "
    "0.002 for fp16]",
)
@click.option(
    "--verify-data",
    type=FILE,
    help="Folder of images or CSV file.  [default: the checkpoint's validation data]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    help="fp16 adds x.fp16.onnx, the file for GPUs and TensorRT.",
)
@click.option(
    "--fp16", "precision", flag_value="fp16", help="Short for --precision fp16.", show_default=False
)
@click.option(
    "--verify/--no-verify", default=True, help="Compare with the checkpoint, or write unproved."
)
@click.option(
    "--max-batch", type=click.IntRange(1, 4096), default=32, help="Largest batch size compared."
)
@click.version_option(__version__)
def main(
    ckpt: Path,
    output: Path | None,
    opset: int,
    atol: float | None,
    verify_data: Path | None,
    precision: Precision,
    verify: bool,
    max_batch: int,
) -> None:
    """Fold the text tower into the head, write ONNX, and prove that it equals the checkpoint.

    Exit codes: 0 written and equal, 1 different (nothing is left behind), 2 wrong use.
    """
    with errors_as_exit_code_2():
        if verify_data is not None and not verify:
            raise UsageError("--verify-data has no use with --no-verify; leave one of them out.")
        require("export,cpu", "torch", "open_clip", "onnx", "onnxscript", "onnxruntime")
        target = onnx_target(ckpt, output)
        from numclip_export.export import export
        from numclip_export.parity import ParityError
        from numclip_export.report import summary

        try:
            done = export(
                ckpt,
                target,
                precision=precision,
                opset=opset,
                atol=atol,
                verify_data=verify_data,
                verify=verify,
                max_batch=max_batch,
            )
        except ParityError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
    for line in summary(done.details):
        click.echo(line)
    click.echo(f"see {done.report}")


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
