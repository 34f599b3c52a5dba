"""Draw what a plan's lanes do at the same time: upload, compute, download.

Run from the repository, where a GPU is: `python benchmarks/timeline.py x.plan -o timeline.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.plots.picture import check_plot
from benchmarks.bench.plots.theme import PAPER, dress
from numclip_runtime.backends.tensorrt.backend import DEFAULT_LANES, TensorRTBackend
from numclip_runtime.backends.tensorrt.engine import STAGES
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.cuda.resources import Event, Stream
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path
from numclip_runtime.model_files.plan import read_plan_metadata

_COLOURS = dict(zip(STAGES, ("#56b4e9", "#0072b2", "#e69f00"), strict=True))  # Okabe-Ito
_WARMUP = 4  # runs in each lane before those that are drawn


@dataclass(frozen=True)
class Span:
    """A stage of a run."""

    lane: int  # from 0
    run: int  # from 0, in the order in which they started
    stage: str  # one of STAGES
    start_ms: float  # since the first start
    end_ms: float


def record(backend: TensorRTBackend, *, batch: int, runs: int) -> list[Span]:
    """Run random batches from as many threads as there are lanes; return when each stage ran.

    The times are of CUDA events between the stages, so a stage that waits for its engine, because
    the other lane has it, looks longer. Graphs are not used, as no event fits into one. The backend
    must be freshly opened; `runs` are counted after the warm-up.
    """
    marks: list[tuple[Stream, str, Event]] = []

    def mark(stream: Stream, stage: str) -> None:
        event = Event(stream.context)
        event.record(stream)
        marks.append((stream, stage, event))

    crop = backend.metadata.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (batch, crop, crop, 3), np.uint8)
    images = (
        pixels
        if backend.metadata.input == "uint8"
        else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
    )
    backend.trace(mark)
    try:
        with ThreadPoolExecutor(backend.lanes) as pool:
            for count in (_WARMUP * backend.lanes, runs):
                for _, _, event in marks:
                    event.close()
                marks.clear()
                list(pool.map(backend.run, [images] * count))
        return _spans(marks)
    finally:
        for _, _, event in marks:
            event.close()


def _spans(marks: Sequence[tuple[Stream, str, Event]]) -> list[Span]:
    first = marks[0][2]
    with first.context.current():
        since = [event.milliseconds_since(first) for _, _, event in marks]
    at = [time - min(since) for time in since]  # threads may mark in another order than the GPU's
    streams: dict[int, list[tuple[float, str]]] = {}  # handle -> its marks, in order
    for time, (stream, stage, _) in zip(at, marks, strict=True):
        streams.setdefault(stream.handle, []).append((time, stage))
    lanes = sorted(streams.values())  # the first to start on top
    starts = sorted(time for lane in lanes for time, stage in lane if stage == "start")
    spans = []
    for number, lane in enumerate(lanes):
        run = -1
        for (before, _), (time, stage) in pairwise([(0.0, ""), *lane]):
            if stage == "start":
                run = starts.index(time)
            else:
                spans.append(Span(number, run, stage, before, time))
    return spans


def save_timeline(path: Path, spans: Sequence[Span], *, kind: str, title: str, note: str) -> None:
    """Draw a row for each stage of each lane, as "png" or "svg"; `note` is the small print."""
    from matplotlib.figure import Figure

    lanes, end = 1 + max(span.lane for span in spans), max(span.end_ms for span in spans)
    figure = Figure(figsize=(12, 1.5 + 0.95 * lanes), layout="constrained")
    axes = figure.subplots()
    for span in spans:
        length, y = span.end_ms - span.start_ms, _row(span.lane, span.stage)
        colour = _COLOURS[span.stage]
        axes.barh(y, length, 0.78, left=span.start_ms, color=colour, edgecolor="white")
        # The run's number, where there is room; a download is next to its compute.
        if length > 0.02 * end and span.stage != STAGES[-1]:
            ink = "white" if span.stage == STAGES[1] else PAPER.ink
            middle = span.start_ms + length / 2
            axes.text(middle, y, str(span.run + 1), ha="center", va="center", fontsize=8, color=ink)
    rows = [(lane, stage) for lane in range(lanes) for stage in STAGES]
    for lane in range(lanes):
        axes.annotate(
            f"lane {lane + 1}",
            (0, _row(lane, STAGES[1])),
            (-78, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
            color=PAPER.ink,
            fontweight="bold",
        )
    axes.set_ylim(_row(lanes - 1, STAGES[-1]) + 0.6, -0.6)
    axes.set_xlim(0, end)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=PAPER.ink)
    dress(axes, PAPER, grid="x")
    axes.set_yticks([_row(*row) for row in rows], [stage for _, stage in rows])
    axes.set_xlabel("ms", fontsize=9, color=PAPER.ink)
    if note:
        figure.supxlabel(note, fontsize=8, color=PAPER.soft)
    figure.savefig(path, format=kind, dpi=150)


def _row(lane: int, stage: str) -> float:
    return 3.5 * lane + STAGES.index(stage)


@click.command(context_settings=SETTINGS)
@click.argument("plan", type=FILE)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images.")
@click.option("--runs", type=click.IntRange(1), default=8, show_default=True, help="Drawn.")
@click.option("--lanes", type=click.IntRange(1), default=DEFAULT_LANES, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("timeline.png"),
    show_default=True,
    help="Picture, .png or .svg.",
)
@exit_on_error()
def main(plan: Path, batch: int, runs: int, lanes: int, output: Path) -> None:
    """Draw when the lanes of PLAN upload, compute and download, on the GPU of this machine."""
    check_plot(output)
    backend = TensorRTBackend(plan, lanes=lanes)
    try:
        largest = read_plan_metadata(plan).engine.max_batch
        if batch > largest:
            raise UsageError(f"{plan}: batches hold at most {largest} images, got {batch}.")
        spans = record(backend, batch=batch, runs=runs)
        how = "CUDA events without graphs: bars include waiting for the other lane"
        notes = [f"{backend.device}, {backend.provider}", how, *backend.notes]
    finally:
        backend.close()
    title = f"{plan.name}, batches of {batch}"
    with atomic_path(output) as path:
        kind = output.suffix[1:].lower()
        save_timeline(path, spans, kind=kind, title=title, note="; ".join(notes))
    click.echo(f"{output}: {runs} runs in {max(span.end_ms for span in spans):.2f} ms.")


if __name__ == "__main__":
    main()
