"""Measure the latency of models, stage by stage, against other ways to run the same weights.

Run from the repository: `python benchmarks/latency.py [MODELS...]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.baselines.registry import BASELINES, GPU_REFERENCE, REFERENCE
from benchmarks.bench.document import Request, measure_all
from benchmarks.bench.models import SIZES
from benchmarks.bench.output.outputs import OutputFiles, open_outputs, summary, write_outputs
from benchmarks.bench.results import Document, read_document
from benchmarks.bench.run import Plan
from benchmarks.bench.systems import Choice, installed_backends
from numclip_runtime import UsageError
from numclip_runtime.backends import BackendName, DeviceKind
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require
from numclip_runtime.metadata import Precision

DEFAULT_BASELINES = (REFERENCE, "torch-bf16", "plain-onnx")  # where no model is given


def parse_batches(_: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Turn "1,8" into (1, 8)."""
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(
            f"{text!r} is not a list of batch sizes; give whole numbers from 1, such as 1,8.",
            param=parameter,
        )
    return sizes


def parse_words(choices: tuple[str, ...]) -> Callable[..., tuple[str, ...] | None]:
    """Return a callback that turns "a,b" into ("a", "b"), each one of the choices."""

    def parse(
        _: click.Context, parameter: click.Parameter, text: str | None
    ) -> tuple[str, ...] | None:
        if text is None:
            return None
        words = tuple(dict.fromkeys(text.split(",")))
        if unknown := [word for word in words if word not in choices]:
            raise click.BadParameter(
                f"{unknown[0]!r} is none of {', '.join(choices)}.", param=parameter
            )
        return words

    return parse


@click.command(context_settings=SETTINGS, epilog=f"Peers: {', '.join(BASELINES)}.")
@click.argument("models", nargs=-1, type=FILE)
@click.option(
    "--model-size",
    "sizes",
    type=click.Choice(SIZES),
    multiple=True,
    help="What is made where no MODELS are given.  [default: ViT-B-32]",
)
@click.option("--ckpt", type=FILE, help="Checkpoint of MODELS: for peers and fidelity.")
@click.option(
    "--peers",
    callback=parse_words(("all", "none", *BASELINES)),
    help="all, none or a list.  [default: torch-eager with --ckpt]",
)
@click.option(
    "--backend",
    "backends",
    callback=parse_words(("all", *get_args(BackendName))),
    help="For ONNX files; all: those installed.  [default: the runtime's]",
)
@click.option("--device", type=click.Choice(get_args(DeviceKind)), default="auto")
@click.option(
    "--precision",
    "precisions",
    callback=parse_words((*get_args(Precision), "bf16")),
    help="Only rows of these.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads inside one inference.")
@click.option("--batch", "batches", default="1,8", callback=parse_batches, help="Batch sizes.")
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=Plan.iterations,
    help="Timed batches per row; a steady p99 needs 1000.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    help="Seconds of timed batches per row, in place of --iterations.",
)
@click.option(
    "--rounds",
    "most_rounds",
    type=click.IntRange(1),
    default=Plan.most_rounds,
    help="Turns of a row, at most; its timed batches are spread over them.",
)
@click.option(
    "--reload",
    is_flag=True,
    help="Load each system for its turns only: for models that do not fit into memory together.",
)
@click.option(
    "--warmup",
    "warmup_s",
    type=click.FloatRange(0),
    default=Plan.warmup_s,
    help="Longest warm-up, seconds; it ends when times are stable.",
)
@click.option(
    "--starts",
    type=click.IntRange(1),
    default=Plan.starts,
    help="Processes per row, for the time to first prediction.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Also serve this many images per second: latency with its queue.",
)
@click.option(
    "--rate-seconds",
    "rate_s",
    type=click.FloatRange(0, min_open=True),
    default=Plan.rate_s,
    help="Length of --rate.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of images.  [default: 32 JPEGs of 640x480, made here]",
)
@click.option("--data", type=FILE, help="Labelled images as for numclip-eval: MAE of each row.")
@click.option("--compare", type=FILE, help="JSON of an older run, to compare with.")
@click.option("--json", type=FILE, help="Write all statistics and samples.")
@click.option("--csv", type=FILE, help="Write a line per row.")
@click.option("--markdown", type=FILE, help="Write the table as Markdown.")
@click.option("--plot", type=FILE, help="Draw a .png or .svg.")
@click.option("--report", type=FILE, help="Write one HTML page with table and pictures.")
def main(
    models: tuple[Path, ...],
    ckpt: Path | None,
    sizes: tuple[str, ...],
    images: Path | None,
    peers: tuple[str, ...] | None,
    backends: tuple[Any, ...] | None,
    precisions: tuple[str, ...] | None,
    threads: int | None,
    device: DeviceKind,
    compare: Path | None,
    json: Path | None,
    csv: Path | None,
    markdown: Path | None,
    plot: Path | None,
    report: Path | None,
    **plan: Any,
) -> None:
    """Measure MODELS against each other and their peers; without MODELS, a full-size one.

    Each runs in a process of its own; they take turns, so that what disturbs one disturbs all.
    Exit codes: 0 measured, 1 nothing could be measured, 2 wrong use or a bad file.
    """
    with exit_on_error():
        choice = Choice(
            chosen_backends(backends, given=bool(models)),
            chosen_baselines(peers, given=bool(models), checkpoint=ckpt is not None),
            precisions,
            threads,
            device,
        )
        if models and sizes:
            raise UsageError("--model-size is for runs without MODELS; leave one of them out.")
        request = Request(models, ckpt, sizes or SIZES[:1], images, Plan(**plan), choice)
        outputs = OutputFiles(json, csv, markdown, plot, report)
        measure_latency(request, outputs, compare=compare, argv=sys.argv)


def chosen_baselines(
    peers: tuple[str, ...] | None, *, given: bool, checkpoint: bool
) -> tuple[str, ...]:
    """Return the baselines to measure, with the one that all others are compared with.

    `peers` is the option, None where it is not given; the other two state what else is given.

    Raises:
        UsageError: if the options contradict each other.
    """
    if checkpoint and not given:
        raise UsageError("--ckpt is the checkpoint of MODELS; give them as well.")
    if peers is None:
        peers = DEFAULT_BASELINES if not given else (REFERENCE,) if checkpoint else ()
    elif {"all", "none"} & set(peers):
        if len(peers) > 1:
            raise UsageError("--peers: all and none stand alone.")
        peers = tuple(BASELINES) if peers == ("all",) else ()
    if peers and given and not checkpoint:
        raise UsageError("--peers run the checkpoint that MODELS come from; give --ckpt.")
    return peers if not peers or {REFERENCE, GPU_REFERENCE} & set(peers) else (REFERENCE, *peers)


def chosen_backends(backends: tuple[Any, ...] | None, *, given: bool) -> tuple[Any, ...]:
    """Return the backends of ONNX files; None is the runtime's choice."""
    if backends is None:
        return (None,) if given else installed_backends() or (None,)
    return (installed_backends() or (None,)) if "all" in backends else backends


def measure_latency(
    request: Request, outputs: OutputFiles, *, compare: Path | None, argv: list[str]
) -> Document:
    """Measure, print the table, write the files, and compare with the JSON of an older run.

    Raises:
        NumclipError: if a model, an image or an output path cannot be used.
        SystemExit: with code 1, if nothing could be measured; the notes give the reasons.
    """
    require("bench", "psutil", "jinja2")
    with ExitStack() as stack:
        # OutputFiles are opened first: a bad path should fail now, not after minutes of measuring.
        older = None if compare is None else (compare.name, read_document(compare))
        temporary = open_outputs(stack, outputs)
        document = measure_all(request, argv=argv)
        click.echo(summary(document, older))
        if not document.rows:
            sys.exit(1)  # leaves no file
        write_outputs(document, temporary)
    return document


if __name__ == "__main__":
    main()
