"""Measure the latency of models, stage by stage, against their peers.

Run from the repository: `python benchmarks/latency.py [MODELS...]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench.baselines.registry import PEERS, REFERENCE
from benchmarks.bench.document import Request, measure_all
from benchmarks.bench.models import SIZES
from benchmarks.bench.run import Plan
from benchmarks.bench.systems import Choice, installed_backends
from benchmarks.outputs import OUTPUTS, open_outputs, show
from numclip_runtime import UsageError
from numclip_runtime.backends import BackendName, DeviceKind
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.metadata import Precision

DEFAULT_PEERS = (REFERENCE, "torch-bf16", "plain-onnx")  # where no model is given


def parse_batches(_: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Turn "1,8" into (1, 8)."""
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(
            f"{text!r} is no list of batch sizes; give whole numbers from 1, such as 1,8.",
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


@click.command(
    context_settings=SETTINGS,
    epilog=f"Peers: {', '.join(PEERS)}.",
)
@click.argument("models", nargs=-1, type=FILE)
@click.option("--model-size", "sizes", type=click.Choice(SIZES), multiple=True,
              help="What is made where no MODELS are given.  [default: ViT-B-32]")  # fmt: skip
@click.option("--ckpt", type=FILE, help="Checkpoint of MODELS: for peers and fidelity.")
@click.option("--peers", callback=parse_words(("all", "none", *PEERS)),
              help="all, none or a list.  [default: torch-eager with --ckpt]")  # fmt: skip
@click.option("--backend", "backends", callback=parse_words(("all", *get_args(BackendName))),
              help="For ONNX files; all: those installed.  [default: the runtime's]")  # fmt: skip
@click.option("--device", type=click.Choice(get_args(DeviceKind)), default="auto")
@click.option("--precision", "precisions", callback=parse_words((*get_args(Precision), "bf16")),
              help="Only rows of these.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="CPU threads inside one inference.")
@click.option("--batch", "batches", default="1,8", callback=parse_batches, help="Batch sizes.")
@click.option("--iterations", type=click.IntRange(1), default=Plan.iterations,
              help="Timed batches per row; a steady p99 needs 1000.")  # fmt: skip
@click.option("--duration", type=click.FloatRange(0, min_open=True),
              help="Seconds of timed batches per row, in place of --iterations.")  # fmt: skip
@click.option("--warmup", "warmup_s", type=click.FloatRange(0), default=Plan.warmup_s,
              help="Longest warm-up, seconds; it ends when times are stable.")  # fmt: skip
@click.option("--starts", type=click.IntRange(1), default=Plan.starts,
              help="Processes per row, for the time to first prediction.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, min_open=True),
              help="Also serve this many images per second: latency with its queue.")  # fmt: skip
@click.option("--rate-seconds", "rate_s", type=click.FloatRange(0, min_open=True),
              default=Plan.rate_s, help="Length of --rate.")  # fmt: skip
@click.option("--images", type=click.Path(exists=True, path_type=Path),
              help="Folder of images.  [default: 32 JPEGs of 640x480, made here]")  # fmt: skip
@click.option("--data", type=FILE, help="Labelled images as for numclip-eval: MAE of each row.")
@click.option("--compare", type=FILE, help="JSON of an older run, to compare with.")
@click.option("--json", type=FILE, help="Write all statistics and samples.")
@click.option("--csv", type=FILE, help="Write a line per row.")
@click.option("--markdown", type=FILE, help="Write the table as Markdown.")
@click.option("--plot", type=FILE, help="Draw a .png or .svg.")
@click.option("--report", type=FILE, help="Write one HTML page with table and pictures.")
def main(models: tuple[Path, ...], **given: Any) -> None:
    """Measure MODELS against each other and their peers; without MODELS, a full-size one.

    Each runs in a process of its own; they take turns, so that what disturbs one disturbs all.
    Exit codes: 0 measured, 1 nothing could be measured, 2 wrong use or a bad file.
    """
    with exit_on_error():
        run(models, given, argv=sys.argv)


def run(
    models: tuple[Path, ...], given: dict[str, Any], *, argv: list[str]
) -> list[dict[str, Any]]:
    """Measure, print the table, write the asked files; return the rows.

    Args:
        models: Exported models; none: full-size ones are made.
        given: The command's options, by name.
        argv: Command line, script first; named in the JSON.

    Raises:
        NumclipError: if a model, an image or an output path cannot be used.
        SystemExit: with code 1, if none could be run; the notes say why.
    """
    request = request_of(models, given)
    with ExitStack() as stack:
        # Outputs are opened first: a bad path should fail now, not after minutes of measuring.
        paths = {name: path for name in OUTPUTS if (path := given[name]) is not None}
        outputs = open_outputs(stack, paths, compare=given["compare"])
        document = measure_all(request, argv=argv, progress=progress)
        click.echo(show(document, outputs.older))
        if not document["rows"]:
            sys.exit(1)  # leaves no file
        outputs.write(document)
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def request_of(models: tuple[Path, ...], given: dict[str, Any]) -> Request:
    """Turn options into what is to be measured.

    Raises:
        UsageError: if they contradict each other.
    """
    ckpt, peers, backends = given["ckpt"], given["peers"], given["backends"]
    if models and given["sizes"]:
        raise UsageError("--model-size is for runs without MODELS; leave one of them out.")
    if ckpt is not None and not models:
        raise UsageError("--ckpt is the checkpoint of MODELS; give them as well.")
    if peers is None:
        peers = DEFAULT_PEERS if not models else (REFERENCE,) if ckpt else ()
    elif {"all", "none"} & set(peers):
        if len(peers) > 1:
            raise UsageError("--peers: all and none stand alone.")
        peers = tuple(PEERS) if peers == ("all",) else ()
    if peers and models and ckpt is None:
        raise UsageError("--peers run the checkpoint that MODELS come from; give --ckpt.")
    if backends is None:
        backends = (None,) if models else installed_backends() or (None,)
    elif "all" in backends:
        backends = installed_backends() or (None,)
    plan_fields = ("batches", "iterations", "duration", "warmup_s", "starts", "rate", "rate_s")
    plan = Plan(**{name: given[name] for name in (*plan_fields, "data")})
    choice = Choice(backends, peers, given["precisions"], given["threads"], given["device"])
    if REFERENCE not in peers and peers:
        choice = replace(
            choice, peers=(REFERENCE, *peers)
        )  # speed and fidelity are told against it
    return Request(models, ckpt, given["sizes"] or SIZES[:1], given["images"], plan, choice)


@contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[], None]]:
    """Give a function to call after each step; shows a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


if __name__ == "__main__":
    main()
