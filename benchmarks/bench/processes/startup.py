"""Start-up: from the start of a process to its first prediction, imports, and memory.

Two programs as users would write them: the lean runtime with an exported model, and the checkpoint
in PyTorch with open_clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench.interleave import interleave
from benchmarks.bench.processes.worker import Worker
from benchmarks.bench.results import Startup

PROGRAMS = {
    "numclip_runtime": "benchmarks.bench.processes.programs:predict_with_runtime",
    "torch": "benchmarks.bench.processes.programs:predict_with_torch",
}


def first_predictions(
    model: Path,
    checkpoint: Path,
    image: str,
    *,
    runs: int,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Startup]:
    """Compare the exported model in the lean runtime with the checkpoint in PyTorch, by turns.

    Args:
        model: ONNX file.
        checkpoint: That it was exported from.
        image: To predict.
        runs: Processes per program.
        threads: CPU threads inside one inference; None: the backend's choice.
        tick: Called after each process.

    Returns:
        "numclip_runtime" and "torch".

    Raises:
        NumclipError: if one of the processes fails.
    """
    files = {"numclip_runtime": {"model": str(model)}, "torch": {"checkpoint": str(checkpoint)}}
    turns = {
        name: partial(_start, name, {**files[name], "image": image, "threads": threads})
        for name in PROGRAMS
    }
    found = interleave(turns, runs, tick=tick)
    return {name: summarise_starts(starts) for name, starts in found.items()}


def _start(name: str, arguments: Mapping[str, Any], _: int) -> tuple[float, dict[str, float]]:
    with Worker(PROGRAMS[name], name=f"first prediction with {name}", **arguments) as worker:
        (facts,) = worker.rest()
        return worker.first_s, facts


def summarise_starts(starts: Sequence[tuple[float, Mapping[str, float]]]) -> Startup:
    """Summarise processes: seconds to the first prediction, and what each reported."""
    times = [seconds for seconds, _ in starts]
    facts = {key: median(each[key] for _, each in starts) for key in ("import_s", "peak_host_mb")}
    return Startup(median(times), min(times), max(times), len(times), **facts)


def startup_lines(starts: Mapping[str, Startup]) -> str:
    """Format one line per program."""
    width = max(map(len, starts))
    return "\n".join(
        f"  {name.ljust(width)}  {took.median:.2f} s ({took.min:.2f} to {took.max:.2f}, "
        f"{took.n} processes), of these imports {took.import_s:.2f} s; peak "
        f"{took.peak_host_mb:.0f} MB"
        for name, took in starts.items()
    )
