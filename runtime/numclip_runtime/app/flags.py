"""The options of `numclip-run`, under their headings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from numclip_runtime.app.run_options import LONGEST_POLL_S, SHORTEST_POLL_S, Engine
from numclip_runtime.app.video import Every
from numclip_runtime.backends import BackendName, DeviceKind, device_of
from numclip_runtime.commands import Decorator, Output, group
from numclip_runtime.console import FILE
from numclip_runtime.errors import UsageError
from numclip_runtime.remote.addresses import scheme_of
from numclip_runtime.results.records import Format


def _every(context: click.Context, parameter: click.Parameter, text: str | None) -> Every | None:
    try:
        return None if text is None else Every.parse(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def _poll(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text.strip().removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not SHORTEST_POLL_S <= seconds <= LONGEST_POLL_S:
        raise click.BadParameter(
            f"{text!r} is not a time from {SHORTEST_POLL_S:g} to {LONGEST_POLL_S:g} seconds, such "
            "as 1s."
        )
    return seconds


def _name_in_folder(context: click.Context) -> str:
    """Return the name of the records' file; "" if the folder itself is the output."""
    given = context.params  # what was not given has a value of click's
    watched = isinstance(given.get("watched"), Path)
    if watched or given.get("resume") is True or given.get("engine") == "ray":
        return ""
    kind = given.get("kind")
    return f"records.{kind if kind in get_args(Format) else 'jsonl'}"


def _device(context: click.Context, parameter: click.Parameter, name: str) -> DeviceKind:
    try:
        return device_of(name)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


class _RecordsOutput(Output):
    """Also an object of a store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or scheme_of(value) is None:
            return super().convert(value, param, ctx)
        from numclip_runtime.remote.upload import RemoteOutput

        assert ctx is not None
        end = _name_in_folder(ctx) if value.endswith("/") else ""
        return RemoteOutput(value + end)


OUTPUTS = group(
    "Output",
    click.option(
        "-o",
        "--output",
        type=_RecordsOutput(_name_in_folder),
        help="Write records to this file, into this folder, or to s3://BUCKET/NAME.",
    ),
    click.option(
        "--format",
        "kind",
        type=click.Choice(get_args(Format)),
        is_eager=True,  # before --output
        help="Default: by the suffix of --output, else table on a terminal and jsonl in a pipe.",
    ),
    click.option(
        "--csv-safe",
        is_flag=True,
        help="Write ' before cells that a spreadsheet would run as a formula, such as =name.jpg.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        is_eager=True,
        help="Write a folder of parts; after a crash, the same command does what is missing.",
    ),
    click.option(
        "--retry-failed", is_flag=True, help="With --resume: do pictures that failed again."
    ),
    click.option(
        "--annotate", type=FILE, help="Write copies with the number drawn to this folder."
    ),
    click.option(
        "--report",
        type=Output("report.html"),
        help="Write a gallery, one HTML page, to this file, or into this folder.",
    ),
    click.option(
        "-v", "--verbose", is_flag=True, help="Print to stderr what runs the model and how fast."
    ),
)
_MONITORING = (
    click.option(
        "--monitor",
        type=Output("monitor.json"),
        help="Follow whether the images are still like those of the calibration; the verdict is "
        "kept in this file, and a later run goes on with it.",
    ),
    click.option(
        "--monitor-every",
        type=click.IntRange(1),
        show_default="1; of videos and cameras 100",
        help="Count one image of so many: images that resemble each other prove less.",
    ),
    click.option(
        "--monitor-reference",
        type=FILE,
        help="Compare with this file of --write-reference, not with the model's reference.",
    ),
)
MONITOR = group(
    "Monitor",
    *_MONITORING,
    click.option(
        "--write-reference",
        type=Output("reference.json"),
        help="Write what these images are like, for --monitor-reference.",
    ),
)
SERVER_MONITOR = group(
    "Monitor",
    *_MONITORING,
    click.option(
        "--no-monitor",
        is_flag=True,
        help="Show no monitor on /metrics; else there is one if the model has a reference.",
    ),
)
INPUTS = group(
    "Input",
    click.option("--model", "named_model", type=FILE, help="The model, in place of MODEL."),
    click.option(
        "--images",
        "--data",
        "named_inputs",
        multiple=True,
        type=click.Path(),
        help="Images, as INPUTS; repeat.",
    ),
    click.option(
        "--watch",
        "watched",
        type=FILE,
        is_eager=True,
        metavar="FOLDER",
        help="In place of INPUTS: the pictures of this folder and those that come, each once.",
    ),
    click.option(
        "--poll",
        callback=_poll,
        metavar="SECONDS",
        show_default="1s",
        help="Time between two looks at the folder of --watch.",
    ),
    click.option("--every", callback=_every, help="Frames of a video: 10 (each tenth) or 0.5s."),
    click.option("-0", "--null", is_flag=True, help="Paths on standard input end with NUL."),
)
_OPENING = (  # how a model is opened
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="[auto|cpu|cuda]",
        callback=_device,
        help="auto: a GPU where it can be used; cuda (or gpu): a GPU, or an error.",
    ),
    click.option(
        "--backend",
        type=click.Choice(get_args(BackendName)),
        help="Default: onnxruntime for .onnx (openvino for bfloat16 and what was made for it), "
        "tensorrt for .plan.",
    ),
    click.option(
        "--bf16/--no-bf16",
        default=None,
        help="Compute in bfloat16 with OpenVINO.  [default: where the file's export proved it, and "
        "this CPU can]",
    ),
    click.option("--require-gpu", is_flag=True, help="Refuse to run on the CPU."),
    click.option("--sha256", help="Refuse a model file with another SHA-256."),
)
MACHINE = group(
    "Machine",
    *_OPENING[:3],
    click.option(
        "--engine",
        type=click.Choice(get_args(Engine)),
        default="local",
        is_eager=True,
        help="ray: actors of Ray Data, on this machine or a cluster; writes parts as --resume.",
    ),
    click.option(
        "--ray-address", metavar="ADDRESS", help="Cluster to use, such as auto or ray://HOST:10001."
    ),
    *_OPENING[3:],
)
SERVER = group("Machine", *_OPENING)  # a server is on one machine


def speed_options(
    *, batch: str, threads: str, workers: str = "", fast_decode: str = ""
) -> Decorator:
    """Return the options of how much work runs at a time.

    Args:
        batch: What --batch-size counts.
        threads: The default of --threads, in words.
        workers: What --workers is besides.
        fast_decode: What becomes of the effect of --fast-decode.
    """
    return group(
        "Speed",
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            show_default="automatic: 1 on a CPU, up to 16 on a GPU",
            help=f"{batch} per inference.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            show_default=f"automatic: {threads}",
            help="CPU threads inside one inference.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            show_default="automatic: the usable cores",
            help=f"Threads that decode{workers}.",
        ),
        click.option(
            "--fast-decode",
            is_flag=True,
            help=f"Decode large JPEGs at 1/2 to 1/8 size{fast_decode}.",
        ),
    )


SPEED = speed_options(
    batch="Images",
    threads="1, or all cores for a single image or a camera",
    workers="; with --engine ray: actors",
    fast_decode="; the effect on the value is printed at the end",
)
