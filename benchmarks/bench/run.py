"""One run: processes are started, take turns, are compared, and become rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import energy
from benchmarks.accuracy import Labelled
from benchmarks.bench.baselines.registry import REFERENCE
from benchmarks.bench.fidelity import PHOTOS, Outputs, compare
from benchmarks.bench.images import ImageSet
from benchmarks.bench.interleave import UNTIMED, ratio, take_turns
from benchmarks.bench.machine import ceilings
from benchmarks.bench.stages import TOTAL, Stamps, Timings
from benchmarks.bench.systems import Lineup
from benchmarks.bench.worker import Worker
from benchmarks.competitor import Competitor
from benchmarks.state import PowerSampler
from benchmarks.warmup import LIMIT_S
from numclip_runtime import GpuRequiredError, MissingDependencyError, NumclipError, Task
from numclip_runtime.files import sha256

ROUNDS = 10
STARTS, STARTS_S = 3, 10.0  # processes started for the time to first prediction; not beyond 10 s
RATE_S = 5.0

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Plan:
    """How long and in which sizes to measure."""

    batches: tuple[int, ...] = (1, 8)  # images per batch
    iterations: int = 100  # timed batches per row
    duration: float | None = None  # seconds of timed batches per row, in place of iterations
    warmup_s: float = LIMIT_S  # longest warm-up per row
    starts: int = STARTS  # processes per competitor, for the time to first prediction
    rate: float | None = None  # images per second of the fixed-rate mode
    rate_s: float = RATE_S  # its length
    data: Path | None = None  # labelled images

    @property
    def rounds(self) -> int:
        """Turns of each competitor at a batch size."""
        return ROUNDS if self.duration is not None else min(ROUNDS, self.iterations)

    def per_turn(self) -> dict[str, Any]:
        """Return the length of a turn: arguments of `Server.turn`."""
        if self.duration is not None:
            return {"iterations": 1, "seconds": self.duration / self.rounds}
        return {"iterations": -(-self.iterations // self.rounds), "seconds": None}


@dataclass(frozen=True)
class Measured:
    """What a family's run gave."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)  # of what the processes loaded
    power: list[dict[str, Any]] = field(default_factory=list)  # of each turn


@contextmanager
def no_progress(_: str, __: int) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None


@dataclass
class Entrant:
    """A competitor's process, and what was found out about it."""

    competitor: Competitor
    worker: Worker
    first_prediction_s: dict[str, float]
    power: list[dict[str, Any]] = field(default_factory=list)  # of each turn
    rows: list[dict[str, Any]] = field(default_factory=list)


def run_family(
    lineup: Lineup,
    plan: Plan,
    images: ImageSet,
    ceiling: dict[str, Any] | None,
    *,
    progress: Progress = no_progress,
) -> Measured:
    """Measure competitors with the same weights against each other.

    Notes on those that could not be measured go to `lineup.notes`.

    Raises:
        NumclipError: if an artefact, which was asked for by name, cannot be run.
    """
    with ExitStack() as stack:
        entrants = []
        with progress("starting", len(lineup.competitors)) as tick:
            for competitor in lineup.competitors:
                try:
                    entrant = start(competitor, images.paths, plan)
                except (GpuRequiredError, MissingDependencyError) as error:
                    if competitor.kind == "artefact" and competitor.backend is None:
                        raise
                    lineup.notes.append(f"{competitor.name} is left out: {error}")
                except NumclipError as error:
                    if competitor.kind == "artefact" and competitor.backend is None:
                        raise
                    lineup.notes.append(f"{competitor.name} failed: {error}")
                else:
                    stack.callback(entrant.worker.close)
                    entrants.append(entrant)
                tick()
        if not entrants:
            return Measured()
        for batch in sorted(plan.batches):
            _measure(entrants, plan, batch, progress)
        _compare(entrants, images, progress)
        if plan.data is not None:
            _judge(entrants, plan.data, progress)
        for entrant in entrants:
            for row in entrant.rows:
                row["ceiling_share"] = None
                if row["device"] == "cpu" and entrant.competitor.kind != "zero-shot":
                    row["ceiling_share"] = ceilings.share(
                        lineup.macs,
                        row["stages_ms"]["inference"]["p50"],
                        row["batch"],
                        row["precision"],
                        ceiling,
                    )
            for note in entrant.worker.about["notes"]:
                if note not in lineup.notes:
                    lineup.notes.append(note)
    rows = [row for entrant in entrants for row in entrant.rows]
    return Measured(
        sorted(rows, key=lambda row: row["batch"]),  # stable: the line-up's order stays
        {k: v for entrant in entrants for k, v in entrant.worker.about["versions"].items()},
        [turn for entrant in entrants for turn in entrant.power],
    )


def start(competitor: Competitor, paths: list[str], plan: Plan) -> Entrant:
    """Start a process a few times, for its first prediction; keep the last."""
    begin, seconds = perf_counter(), []
    while True:
        worker = Worker(competitor, paths[0])
        seconds.append(worker.first_prediction_s)
        if len(seconds) >= plan.starts or perf_counter() - begin > STARTS_S:
            break
        worker.close()
    worker.ask("images", paths=paths)
    first = {
        "median": median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "n": len(seconds),
    }
    return Entrant(competitor, worker, first)


def _measure(entrants: list[Entrant], plan: Plan, batch: int, progress: Progress) -> None:
    """Warm up, take turns, and add a row to each."""
    names = range(len(entrants))
    warmups = []
    with progress(f"warm-up, batch {batch}", len(entrants)) as tick:
        for entrant in entrants:
            warmups.append(entrant.worker.ask("warm", batch=batch, limit_s=plan.warmup_s))
            tick()

    def turn(index: int) -> Stamps:
        entrant = entrants[index]
        with PowerSampler("cpu" if entrant.worker.about["device"] == "cpu" else "gpu") as power:
            found = entrant.worker.ask("turn", batch=batch, untimed=UNTIMED, **plan.per_turn())
        entrant.power.append(power.to_dict())
        return np.array(found, np.int64)

    with progress(f"batch {batch}", plan.rounds * len(entrants)) as tick:
        turns = {index: (lambda index=index: turn(index)) for index in names}
        stamps = take_turns(turns, plan.rounds, tick=tick)
    base = next(
        (index for index in names if entrants[index].competitor.kind == REFERENCE), names[0]
    )
    for index, entrant in enumerate(entrants):
        timings = Timings.from_stamps(np.concatenate(stamps[index]), batch=batch)
        compared = None
        if index != base:
            to = entrants[base].competitor.name
            compared = ratio(stamps[index], stamps[base], to=to).to_dict()
        row = _row(entrant, timings, warmups[index], compared)
        done = batch * sum(UNTIMED + len(part) for part in stamps[index])
        row["power"] = energy.total(entrant.power[-plan.rounds :], done)
        entrant.rows.append(row)
    if plan.rate is not None:
        with progress(f"{plan.rate:g} img/s, batch {batch}", len(entrants)) as tick:
            for entrant in entrants:
                entrant.rows[-1]["rate"] = entrant.worker.ask(
                    "rate", batch=batch, rate=plan.rate, seconds=plan.rate_s
                )
                tick()


def _row(
    entrant: Entrant,
    timings: Timings,
    warmup: dict[str, Any],
    compared: dict[str, Any] | None,
) -> dict[str, Any]:
    competitor, about = entrant.competitor, entrant.worker.about
    samples = {
        f"{stage}_ms_samples": [round(ms, 4) for ms in timings.stages[stage].tolist()]
        for stage in (TOTAL, "inference")
    }
    return {
        "name": competitor.name,
        "kind": competitor.kind,
        "model": competitor.model.name,
        "sha256": sha256(competitor.model),
        "backend": about["backend"],
        "provider": about["provider"],
        "device": about["device"],
        "precision": about["precision"],
        "batch": timings.batch,
        "threads": competitor.threads,
        "stages_ms": {
            stage: summary.to_dict()
            for stage, summary in timings.summaries.items()
            if summary.max > 0  # nothing is uploaded to a CPU
        },
        **samples,
        "throughput_img_s": timings.throughput_img_s,
        "ratio": compared,
        "fidelity": None,
        "mae": None,
        "power": None,
        "first_prediction_s": entrant.first_prediction_s["median"],
        "first_prediction": entrant.first_prediction_s,
        "warmup": warmup,
        "rate": None,
        **entrant.worker.ask("memory"),
    }


def _compare(entrants: list[Entrant], images: ImageSet, progress: Progress) -> None:
    """Add fidelity to the rows, where PyTorch's float32 took part."""
    reference = next((one for one in entrants if one.competitor.kind == REFERENCE), None)
    if reference is None:
        return
    photos = images.paths[:PHOTOS]
    rows = [(entrant, row) for entrant in entrants for row in entrant.rows]
    with tempfile.TemporaryDirectory() as folder, progress("fidelity", len(rows)) as tick:

        def outputs(entrant: Entrant, batch: int) -> Outputs:
            to = Path(folder) / "outputs.npz"
            entrant.worker.ask("outputs", paths=photos, batch=batch, to=str(to))
            return Outputs.read(to)

        exact = outputs(reference, 1)
        for entrant, row in rows:
            if entrant.competitor.family == reference.competitor.family:
                found = compare(outputs(entrant, row["batch"]), exact)
                row["fidelity"] = found.to_dict()
            tick()


def _judge(entrants: list[Entrant], data: Path, progress: Progress) -> None:
    """Add the error on labelled images to the rows."""
    labelled = Labelled.read(data, Task.from_dict(entrants[0].worker.about["task"]))
    with progress("labelled images", len(entrants)) as tick:
        for entrant in entrants:
            values = entrant.worker.ask("values", paths=labelled.paths)
            mae = labelled.mae(values, entrant.worker.about["unit"])
            for row in entrant.rows:
                row["mae"] = mae
            tick()
