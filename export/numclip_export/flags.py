"""The flags of `numclip-export`."""

from __future__ import annotations

from typing import Literal, get_args

import click

from numclip_export.engine.build_options import MAX_BATCH
from numclip_export.options import ExportOptions, Target
from numclip_runtime import UsageError
from numclip_runtime.commands import add, group
from numclip_runtime.console import FILE
from numclip_runtime.metadata import InputKind, Precision

PrecisionChoice = Literal[Precision, "bf16"]  # bf16 is proved of the float32 file


def compute_capabilities(text: str) -> tuple[int, ...]:
    """Return (75, 86) for "75,86" or "7.5,8.6"."""
    words = [word.strip().lower().removeprefix("sm").replace(".", "") for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(
            f"{text!r} is not a list of compute capabilities such as 86,89,120."
        )
    return tuple(map(int, words))


FLAGS = add(
    group(
        "Source and output",
        click.option("--ckpt", type=FILE, help="The checkpoint, in place of SOURCE."),
        click.option(
            "--onnx",
            "--model",
            "onnx_path",
            type=FILE,
            help="The ONNX file, in place of SOURCE: builds an engine from it.",
        ),
        click.option(
            "-o",
            "--output",
            type=FILE,
            help="Folder, or a name ending in .onnx (.plan with --onnx).  [default: beside SOURCE]",
        ),
        click.option("--card", is_flag=True, help="Add x.card.md, a model card for people."),
        click.option(
            "--web",
            type=FILE,
            metavar="DIR",
            help="Add a static page that computes the numbers of photos in the browser.",
        ),
        click.option(
            "--triton",
            type=FILE,
            metavar="DIR",
            help="Add a folder for the model to this repository of a Triton server.",
        ),
        click.option(
            "--ort-web",
            type=FILE,
            help="onnxruntime-web as `npm pack` writes it.  [default: fetched from npm once]",
        ),
    ),
    group(
        "Fleet bundle",
        click.option(
            "--bundle",
            type=FILE,
            metavar="DIR",
            help="Write the files of several targets into one folder, of which each machine runs "
            "the best.",
        ),
        click.option(
            "--targets",
            metavar="LIST",
            help="Of --bundle: cpu, onnx, tensorrt, tensorrt-rtx, also with a precision or with "
            "compute capabilities: cpu,onnx-fp16,tensorrt-rtx:86+120.",
        ),
        click.option(
            "--allow-missing",
            is_flag=True,
            help="Leave out of --bundle what cannot be built here, instead of refusing.",
        ),
    ),
    group(
        "Publish on a hub (extra `hub`)",
        click.option(
            "--push",
            metavar="OWNER/NAME",
            help="Repository for the ONNX files, their report and card; made if there is none.",
        ),
        click.option("--license", help="Of the model, as the hub writes it: apache-2.0, other."),
        click.option("--public", is_flag=True, help="Make a new repository public."),
    ),
    group(
        "Form",
        click.option(
            "--precision",
            type=click.Choice(get_args(PrecisionChoice)),
            help="fp16 and int8 add x.fp16.onnx or x.int8.onnx; bf16 proves that a CPU may run the "
            "fp32 file in bfloat16.  [default: fp32]",
        ),
        *(
            click.option(f"--{name}", name, is_flag=True, help=f"Short for --precision {name}.")
            for name in ("fp16", "int8", "bf16")
        ),
        click.option(
            "--target",
            type=click.Choice(get_args(Target)),
            default="auto",
            help="Purpose of the files. cpu: onnxruntime; openvino: int8 faster in batches. auto: "
            "fp32 ONNX only; fp16 and int8 also an engine, where a TensorRT is at hand.",
        ),
        click.option(
            "--input",
            type=click.Choice(["auto", *get_args(InputKind)]),
            default=ExportOptions.input,
            help="Input of the fp16 or int8 file: normalised planes, or pixels.  [default: "
            "pixels, for engines and for --int8 --target cpu where the network can]",
        ),
        click.option(
            "--opset",
            type=click.IntRange(18, 23),
            help="ONNX operator set.  [default: 18; vision transformers for a CPU: 23]",
        ),
        click.option(
            "--max-batch",
            type=click.IntRange(1, 4096),
            help=f"Compared and built for.  [default: {MAX_BATCH}]",
        ),
    ),
    group(
        "Images to compare on and to calibrate int8 with",
        click.option(
            "--data",
            type=FILE,
            help="For both: labelled images as for numclip-eval, or a folder of images.  "
            "[default: the checkpoint's validation data]",
        ),
        click.option("--verify-data", type=FILE, help="To compare on only."),
        click.option(
            "--verify/--no-verify",
            default=ExportOptions.verify,
            help="Compare with the checkpoint, or write unproved.",
        ),
        click.option(
            "--atol",
            type=click.FloatRange(0),
            help="Largest difference of a value, label units; of int8, in the mean.  [default: "
            "1e-5 of the label range; fp16 0.002; int8 0.005]",
        ),
        click.option("--calib-data", type=FILE, help="To calibrate int8 with only."),
        click.option(
            "--calib-cache", type=FILE, help="Keeps the calibration of int8 between exports."
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
    ),
    group(
        "Engines",
        click.option("--min-batch", type=click.IntRange(1), help="[default: 1]"),
        click.option(
            "--opt-batch", type=click.IntRange(1), help="The batch to be fastest at.  [default: 8]"
        ),
        click.option(
            "--workspace-mib", type=click.IntRange(1), help="Most scratch memory.  [default: all]"
        ),
        click.option(
            "--timing-cache", type=FILE, help="Kept between builds, which it makes faster."
        ),
        click.option(
            "--version-compatible", is_flag=True, help="Run on later TensorRT versions as well."
        ),
        click.option(
            "--hardware-compatible", is_flag=True, help="Run on every GPU from Ampere on."
        ),
        click.option(
            "--compute-capability",
            "compute_capabilities",
            type=compute_capabilities,
            metavar="N,N",
            help="GPUs that a TensorRT-RTX engine is for: 75,86.  [default: 80 and later]",
        ),
        click.option("--tf32", is_flag=True, help="Round FP32 products to 10 bits, head included."),
    ),
)


def precision_of(
    precision: PrecisionChoice | None, *, fp16: bool, int8: bool, bf16: bool
) -> tuple[Precision, bool]:
    """Return the precision that --precision and its short forms name, and whether bf16 is proved.

    Raises:
        UsageError: if they name two.
    """
    asked: tuple[tuple[PrecisionChoice, bool], ...] = (
        ("fp16", fp16),
        ("int8", int8),
        ("bf16", bf16),
    )
    named = {name for name, given in asked if given}
    if precision is not None:
        named.add(precision)
    if len(named) > 1:
        raise UsageError(
            f"one export writes one precision beside fp32, and {' and '.join(sorted(named))} are "
            "asked for; run it once for each, with another --output."
        )
    found = named.pop() if named else ExportOptions.precision
    return ("fp32", True) if found == "bf16" else (found, False)
