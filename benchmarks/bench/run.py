"""One family of systems: processes are started, take turns, are compared, and become rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.bench.baselines.registry import REFERENCE
from benchmarks.bench.fidelity import PHOTOS, Labelled, Outputs
from benchmarks.bench.images import ImageSet
from benchmarks.bench.interleave import PAUSE_S, UNTIMED, interleave, ratio
from benchmarks.bench.load import LIMIT_S
from benchmarks.bench.machine.ceilings import Ceilings
from benchmarks.bench.machine.energy import PowerReading, PowerSampler, sum_power
from benchmarks.bench.processes.worker import Worker
from benchmarks.bench.results import TOTAL, FixedRate, Row, StartTimes, Warmup, from_plain
from benchmarks.bench.stages import Stamps, Timings
from benchmarks.bench.systems import ARTEFACT, Systems, SystemUnderTest
from numclip_runtime import GpuRequiredError, MissingDependencyError, NumclipError, Task
from numclip_runtime.files import sha256

ROUNDS = 10
STARTS, STARTS_S = 3, 10.0  # processes started for the time to first prediction; not beyond 10 s
RATE_S = 5.0

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Plan:
    """Lengths and sizes of the measurement."""

    batches: tuple[int, ...] = (1, 8)  # images per batch
    iterations: int = 100  # timed batches per row
    duration: float | None = None  # seconds of timed batches per row, in place of iterations
    warmup_s: float = LIMIT_S  # longest warm-up per row
    starts: int = STARTS  # processes per system, for the time to first prediction
    rate: float | None = None  # images per second of the fixed-rate mode
    rate_s: float = RATE_S  # its length
    data: Path | None = None  # labelled images

    @property
    def rounds(self) -> int:
        """Turns of each system at a batch size."""
        return ROUNDS if self.duration is not None else min(ROUNDS, self.iterations)

    @property
    def turn_iterations(self) -> int:
        """Timed batches of a turn; the least number, where `turn_s` limits it."""
        return 1 if self.duration is not None else -(-self.iterations // self.rounds)

    @property
    def turn_s(self) -> float | None:
        """Seconds of a turn; None: by iterations."""
        return None if self.duration is None else self.duration / self.rounds


@dataclass
class Run:
    """A system's process, and its results so far."""

    system: SystemUnderTest
    worker: Worker
    starts: StartTimes
    power: list[PowerReading] = field(default_factory=list)  # of each turn
    rows: list[Row] = field(default_factory=list)

    @property
    def about(self) -> dict[str, Any]:
        """The facts of `SystemServer.about`."""
        facts: dict[str, Any] = self.worker.first
        return facts

    def turn(self, _: int, *, batch: int, plan: Plan) -> Stamps:
        """Measure one turn, with its power."""
        with PowerSampler("cpu" if self.about["device"] == "cpu" else "gpu") as power:
            length = {"iterations": plan.turn_iterations, "seconds": plan.turn_s}
            found = self.worker.ask("turn", batch=batch, untimed=UNTIMED, **length)
        self.power.append(power.reading())
        return np.array(found, np.int64)


@dataclass(frozen=True)
class Measured:
    """Results of a family."""

    rows: list[Row] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)  # of packages that the processes loaded
    power: list[PowerReading] = field(default_factory=list)  # of each turn


@contextmanager
def no_progress(_: str, __: int) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None


def run_family(
    systems: Systems,
    plan: Plan,
    images: ImageSet,
    ceilings: Ceilings | None,
    *,
    progress: Progress = no_progress,
) -> Measured:
    """Measure systems with the same weights against each other.

    Notes on those that could not be measured go to `systems.notes`.

    Raises:
        NumclipError: if an artefact, which was asked for by name, cannot be run.
    """
    with ExitStack() as stack:
        runs = []
        with progress("starting", len(systems.systems)) as tick:
            for system in systems.systems:
                try:
                    run = start(system, images.paths, plan)
                except NumclipError as error:
                    if system.kind == ARTEFACT and system.backend is None:
                        raise
                    absent = isinstance(error, (GpuRequiredError, MissingDependencyError))
                    verb = "is left out" if absent else "failed"
                    systems.notes.append(f"{system.name} {verb}: {error}")
                else:
                    stack.callback(run.worker.close)
                    runs.append(run)
                tick()
        if not runs:
            return Measured()
        for batch in sorted(plan.batches):
            _measure(runs, plan, batch, progress)
        _compare(runs, images, progress)
        if plan.data is not None:
            _judge(runs, plan.data, progress)
        for run in runs:
            for row in run.rows:
                if ceilings and row.device == "cpu" and row.kind != "zero-shot":
                    inference_ms = row.stages_ms["inference"].p50
                    row.ceiling_share = ceilings.share(
                        systems.macs, inference_ms, batch=row.batch, precision=row.precision
                    )
            systems.notes += [n for n in run.about["notes"] if n not in systems.notes]
    rows = [row for run in runs for row in run.rows]
    return Measured(
        sorted(rows, key=lambda row: row.batch),  # stable: the order of the systems stays
        {name: text for run in runs for name, text in run.about["versions"].items()},
        [reading for run in runs for reading in run.power],
    )


def start(system: SystemUnderTest, paths: list[str], plan: Plan) -> Run:
    """Start a process a few times, for its first prediction; keep the last."""
    begin, seconds = perf_counter(), []
    while True:
        worker = Worker(
            "benchmarks.bench.processes.system_server:SystemServer",
            name=system.name,
            system=asdict(system),
            image=paths[0],
        )
        seconds.append(worker.first_s)
        if len(seconds) >= plan.starts or perf_counter() - begin > STARTS_S:
            break
        worker.close()
    worker.ask("images", paths=paths)
    times = StartTimes(median(seconds), min(seconds), max(seconds), len(seconds))
    return Run(system, worker, times)


def _measure(runs: list[Run], plan: Plan, batch: int, progress: Progress) -> None:
    """Warm up, take turns, and add a row to each."""
    warmups = []
    with progress(f"warm-up, batch {batch}", len(runs)) as tick:
        for run in runs:
            done = run.worker.ask("warm", batch=batch, limit_s=plan.warmup_s)
            warmups.append(from_plain(Warmup, done))
            tick()
    with progress(f"batch {batch}", plan.rounds * len(runs)) as tick:
        turns = {i: partial(run.turn, batch=batch, plan=plan) for i, run in enumerate(runs)}
        stamps = interleave(turns, plan.rounds, order="shuffled", pause_s=PAUSE_S, tick=tick)
    base = next((i for i, run in enumerate(runs) if run.system.kind == REFERENCE), 0)
    for index, run in enumerate(runs):
        timings = Timings.from_stamps(np.concatenate(stamps[index]), batch=batch)
        row = _row(run, timings, warmups[index])
        if index != base:
            row.ratio = ratio(stamps[index], stamps[base], to=runs[base].system.name)
        done = batch * sum(UNTIMED + len(part) for part in stamps[index])
        row.power = sum_power(run.power[-plan.rounds :], done)
        run.rows.append(row)
    if plan.rate is not None:
        with progress(f"{plan.rate:g} img/s, batch {batch}", len(runs)) as tick:
            for run in runs:
                found = run.worker.ask("rate", batch=batch, rate=plan.rate, seconds=plan.rate_s)
                run.rows[-1].rate = from_plain(FixedRate, found)
                tick()


def _row(run: Run, timings: Timings, warmup: Warmup) -> Row:
    about, system = run.about, run.system
    total, inference = (
        [round(ms, 4) for ms in timings.stages[stage].tolist()] for stage in (TOTAL, "inference")
    )
    return Row(
        name=system.name,
        kind=system.kind,
        model=system.model.name,
        sha256=sha256(system.model),
        backend=about["backend"],
        provider=about["provider"],
        device=about["device"],
        precision=about["precision"],
        batch=timings.batch,
        threads=system.threads,
        # nothing is uploaded to a CPU
        stages_ms={stage: s for stage, s in timings.summaries.items() if s.max > 0},
        total_ms_samples=total,
        inference_ms_samples=inference,
        throughput_img_s=timings.throughput_img_s,
        first_prediction_s=run.starts.median,
        first_prediction=run.starts,
        warmup=warmup,
        **run.worker.ask("memory"),
    )


def _compare(runs: list[Run], images: ImageSet, progress: Progress) -> None:
    """Add fidelity to the rows, where PyTorch's float32 took part."""
    reference = next((run for run in runs if run.system.kind == REFERENCE), None)
    if reference is None:
        return
    rows = [(run, row) for run in runs for row in run.rows]
    with tempfile.TemporaryDirectory() as folder, progress("fidelity", len(rows)) as tick:

        def outputs(run: Run, batch: int) -> Outputs:
            to = Path(folder) / "outputs.npz"
            run.worker.ask("outputs", paths=images.paths[:PHOTOS], batch=batch, to=str(to))
            return Outputs.read(to)

        exact = outputs(reference, 1)
        for run, row in rows:
            if run.system.family == reference.system.family:
                row.fidelity = outputs(run, row.batch).compare(exact)
            tick()


def _judge(runs: list[Run], data: Path, progress: Progress) -> None:
    """Add the error on labelled images to the rows."""
    labelled = Labelled.read(data, Task.from_dict(runs[0].about["task"]))
    with progress("labelled images", len(runs)) as tick:
        for run in runs:
            error = labelled.mae(run.worker.ask("values", paths=labelled.paths), run.about["unit"])
            for row in run.rows:
                row.mae = error
            tick()
