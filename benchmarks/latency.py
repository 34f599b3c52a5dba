"""Measure the latency of an exported model, stage by stage.

Run from the repository: `python benchmarks/latency.py model.onnx --json latency.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.environment import describe_environment, load_average
from benchmarks.first_prediction import RUNS, first_predictions
from benchmarks.images import open_images
from benchmarks.plot import check_plot, save_plot
from benchmarks.report import first_prediction_lines, table, write_json
from benchmarks.stages import Row, measure
from benchmarks.torch_model import TorchBackend
from numclip_runtime import Predictor, load
from numclip_runtime.cli import errors_as_exit_code_2
from numclip_runtime.files import atomic_path, atomic_text, sha256


@dataclass(frozen=True)
class Plan:
    """How long and in which sizes to measure."""

    batches: tuple[int, ...] = (1, 8)  # images per batch
    iterations: int = 100  # timed batches per row
    warmup: int = 10  # untimed batches before them
    threads: int | None = None  # CPU threads inside one inference; None: the backend's choice


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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of images. Default: 16 synthetic JPEGs of 640x480.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all statistics.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw a .png or .svg.")
@click.option(
    "--batch", default="1,8", show_default=True, callback=parse_batches, help="Batch sizes."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads inside one inference.")
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=Plan.iterations,
    show_default=True,
    help="Timed batches per row; a steady p99 needs 1000.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=Plan.warmup,
    show_default=True,
    help="Untimed batches before them.",
)
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path),
    help="Compare with this checkpoint in PyTorch (phrases encoded once), start-up included.",
)
def main(
    model: Path,
    images: Path | None,
    json_path: Path | None,
    plot_path: Path | None,
    batch: tuple[int, ...],
    threads: int | None,
    iterations: int,
    warmup: int,
    ckpt: Path | None,
) -> None:
    """Measure decode, preprocess, inference and postprocess of MODEL, in ms per batch."""
    with errors_as_exit_code_2():
        run(
            model,
            Plan(batch, iterations, warmup, threads),
            images=images,
            json_path=json_path,
            plot_path=plot_path,
            ckpt=ckpt,
            argv=sys.argv,
        )


def run(
    model: Path,
    plan: Plan,
    *,
    images: Path | None = None,
    json_path: Path | None = None,
    plot_path: Path | None = None,
    ckpt: Path | None = None,
    argv: Sequence[str] = ("latency.py",),
) -> list[Row]:
    """Measure, print the table, write the asked files; return the rows.

    Args:
        model: Exported model.
        plan: Sizes and counts.
        images: Folder of images; None makes synthetic ones.
        json_path: File for all statistics.
        plot_path: File for the picture, .png or .svg.
        ckpt: Checkpoint to compare with in PyTorch.
        argv: Command line, script first; named in the JSON.

    Raises:
        NumclipError: if the model, an image or an output path cannot be used.
    """
    with ExitStack() as stack:
        # Outputs are opened first: a bad path should fail now, not after minutes of measuring.
        if plot_path is not None:
            check_plot(plot_path)
        plot_file = stack.enter_context(atomic_path(plot_path)) if plot_path else None
        json_file = stack.enter_context(atomic_text(json_path)) if json_path else None
        image_set = stack.enter_context(open_images(images))

        load_before = load_average()
        first = None
        if ckpt is not None:
            with progress("first prediction", 2 * RUNS) as tick:
                first = first_predictions(
                    model, ckpt, image_set.paths[0], threads=plan.threads, tick=tick
                )
        with load(model, threads=plan.threads) as predictor:
            rows = measure_model(predictor, model, plan, image_set.paths)
        if ckpt is not None:
            # After the first model is closed: its waiting threads would take the CPU's time.
            with Predictor(TorchBackend(ckpt, threads=plan.threads)) as predictor:
                rows += measure_model(predictor, ckpt, plan, image_set.paths)
        environment = describe_environment(argv=argv, load_before=load_before) | {
            "images": image_set.description,
            "warmup": plan.warmup,
            "iterations": plan.iterations,
        }
        conditions = (
            f"{environment['cpu']}, threads: {plan.threads or 'automatic'}; {image_set}; "
            f"{plan.warmup} warm-up and {plan.iterations} timed batches per row"
        )
        click.echo(f"Stages: p50 in ms per batch. {conditions}.\n\n{table(rows)}")
        if first is not None:
            click.echo(f"\nProcess start to first prediction:\n{first_prediction_lines(first)}")
        if json_file is not None:
            write_json(json_file, rows, environment, first)
        if plot_file is not None and plot_path is not None:
            save_plot(plot_file, rows, kind=plot_path.suffix.lower()[1:], note=conditions)
    return rows


def measure_model(predictor: Predictor, file: Path, plan: Plan, paths: Sequence[str]) -> list[Row]:
    """Measure one opened model at each batch size of the plan.

    Args:
        predictor: Opened model; stays open.
        file: File that it was opened from.
        plan: Sizes and counts.
        paths: Image files.
    """
    backend = predictor.backend
    digest = sha256(file)
    rows = []
    for batch in plan.batches:
        label = f"{file.name} {backend.name} batch {batch}"
        with progress(label, plan.warmup + plan.iterations) as tick:
            timings = measure(
                predictor,
                paths,
                batch=batch,
                iterations=plan.iterations,
                warmup=plan.warmup,
                tick=tick,
            )
        rows.append(
            Row(
                model=file.name,
                sha256=digest,
                backend=backend.name,
                provider=backend.provider,
                precision=predictor.metadata.precision,
                batch=batch,
                threads=plan.threads,
                timings=timings,
            )
        )
    return rows


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
