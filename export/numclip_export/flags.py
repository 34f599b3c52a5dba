"""The flags of `numclip-export`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from numclip_export.engine.build_options import MAX_BATCH
from numclip_export.options import ExportOptions, Target
from numclip_runtime.console import FILE
from numclip_runtime.metadata import InputKind, Precision

Command = TypeVar("Command", bound=Callable[..., Any])


def compute_capabilities(text: str) -> tuple[int, ...]:
    """Return (75, 86) for "75,86" or "7.5,8.6"."""
    words = [word.strip().lower().removeprefix("sm").replace(".", "") for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(
            f"{text!r} is not a list of compute capabilities such as 86,89,120."
        )
    return tuple(map(int, words))


FLAGS: tuple[Callable[[Any], Any], ...] = (
    click.option("--ckpt", type=FILE, help="Checkpoint of numclip-train."),
    click.option(
        "--onnx", "onnx_path", type=FILE, help="Build an engine from this file of numclip-export."
    ),
    click.option(
        "-o",
        "--output",
        type=FILE,
        help="Folder, or a name ending in .onnx (.plan with --onnx).  [default: beside the source]",
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default=ExportOptions.precision,
        help="fp16 and int8 add x.fp16.onnx or x.int8.onnx.",
    ),
    *(
        click.option(f"--{name}", "precision", flag_value=name, show_default=False, help=text)
        for name, text in (
            ("fp16", "Short for --precision fp16."),
            ("int8", "Short for --precision int8."),
        )
    ),
    click.option(
        "--target",
        type=click.Choice(get_args(Target)),
        default="auto",
        help="Purpose of the files. auto: fp32 ONNX only; fp16 and int8 also an engine, where a "
        "TensorRT is at hand.",
    ),
    click.option(
        "--input",
        type=click.Choice(["auto", *get_args(InputKind)]),
        default=ExportOptions.input,
        help="Input of the fp16 or int8 file: normalised planes, or pixels.  [default: pixels, "
        "for engines and for --int8 --target cpu where the network can]",
    ),
    click.option(
        "--opset",
        type=click.IntRange(18, 23),
        help="ONNX operator set.  [default: 18; vision transformers for a CPU: 23]",
    ),
    click.option(
        "--atol",
        type=click.FloatRange(0),
        help="Largest difference of a value, label units; of int8, in the mean.  [default: 1e-5 of "
        "the label range; fp16 0.002; int8 0.005]",
    ),
    click.option(
        "--verify-data",
        type=FILE,
        help="Folder of images or CSV file.  [default: the checkpoint's validation data]",
    ),
    click.option(
        "--verify/--no-verify",
        default=ExportOptions.verify,
        help="Compare with the checkpoint, or write unproved.",
    ),
    click.option(
        "--calib-data",
        type=FILE,
        help="Images for int8: folder or CSV.  [default: the checkpoint's validation data]",
    ),
    # As TABLE_OPTIONS of the commands that train, which are not imported: engines are built on
    # devices without what those need. A test compares the two.
    click.option(
        "--path-column", help="Column of image paths.  [default: path; or file, image, ...]"
    ),
    click.option(
        "--label-column",
        help="Column of labels; in tars, field of the JSON.  [default: label]",
    ),
    click.option("--skip-unlabelled", is_flag=True, help="Leave images without a label out."),
    click.option("--calib-cache", type=FILE, help="Keeps the calibration of int8 between exports."),
    click.option(
        "--max-batch",
        type=click.IntRange(1, 4096),
        help=f"Compared and built for.  [default: {MAX_BATCH}]",
    ),
    click.option("--card", is_flag=True, help="Add x.card.md, a model card for people."),
    click.option(
        "--web",
        type=FILE,
        metavar="DIR",
        help="Add a static page that computes the numbers of photos in the browser.",
    ),
    click.option(
        "--ort-web",
        type=FILE,
        help="onnxruntime-web as `npm pack` writes it.  [default: fetched from npm once]",
    ),
    click.option("--min-batch", type=click.IntRange(1), help="[default: 1]"),
    click.option(
        "--opt-batch", type=click.IntRange(1), help="The batch to be fastest at.  [default: 8]"
    ),
    click.option(
        "--workspace-mib", type=click.IntRange(1), help="Most scratch memory.  [default: all]"
    ),
    click.option("--timing-cache", type=FILE, help="Kept between builds, which it makes faster."),
    click.option(
        "--version-compatible", is_flag=True, help="Run on later TensorRT versions as well."
    ),
    click.option("--hardware-compatible", is_flag=True, help="Run on every GPU from Ampere on."),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        type=compute_capabilities,
        metavar="N,N",
        help="GPUs that a TensorRT-RTX engine is for: 75,86.  [default: 80 and later]",
    ),
    click.option("--tf32", is_flag=True, help="Round FP32 products to 10 bits, head included."),
)


def export_flags(command: Command) -> Command:
    """Add the flags of `numclip-export` to a command."""
    for flag in reversed(FLAGS):
        command = flag(command)
    return command
