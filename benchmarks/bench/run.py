"""One family of systems: processes are started, take turns, are compared, and become rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.bench.baselines.registry import GPU_REFERENCE, REFERENCE
from benchmarks.bench.fidelity import PHOTOS, Labelled, Outputs
from benchmarks.bench.interleave import PAUSE_S, UNTIMED, interleave, ratio, track
from benchmarks.bench.machine.ceilings import Ceilings
from benchmarks.bench.machine.energy import PowerReading, PowerSampler, sum_power
from benchmarks.bench.processes.worker import Worker
from benchmarks.bench.results import TOTAL, FixedRate, Row, StartTimes, Warmup, from_plain
from benchmarks.bench.stages import WARMUP_S, Stamps, Timings
from benchmarks.bench.systems import ARTEFACT, Systems, SystemUnderTest
from numclip_runtime import GpuRequiredError, MissingDependencyError, NumclipError, Task
from numclip_runtime.files import sha256

ROUNDS = 10
# Largest batch of PyTorch on the CPU where others run on a GPU: 256 images take it seconds, and all
# others wait for its turns
MOST_BESIDE_GPU = 8
# Least images of the first warm-up of a system that is loaded for a turn: twice those after which
# the runtime moves its weights to huge pages, in a thread that takes a few seconds
WARM_IMAGES = 40
STARTS_S = 10.0  # no further processes are started for the first prediction after this time


@dataclass(frozen=True)
class Plan:
    """Lengths and sizes of the measurement."""

    batches: tuple[int, ...] = (1, 8)  # images per batch
    iterations: int = 100  # timed batches per row
    duration: float | None = None  # seconds of timed batches per row, in place of iterations
    warmup_s: float = WARMUP_S  # longest warm-up per row
    starts: int = 3  # processes per system, for the time to first prediction
    rate: float | None = None  # images per second of the fixed-rate mode
    rate_s: float = 5.0  # its length
    data: Path | None = None  # labelled images
    most_rounds: int = ROUNDS
    reload: bool = False  # only one system is in memory at a time, and loaded for each turn

    @property
    def rounds(self) -> int:
        """Turns of each system at a batch size."""
        timed = self.most_rounds if self.duration is not None else self.iterations
        return min(self.most_rounds, timed)

    @property
    def untimed(self) -> int:
        """Batches at the start of a turn; fewer where a warm-up comes just before."""
        return 1 if self.reload else UNTIMED


@dataclass
class Run:
    """A system, its process, and its results so far."""

    system: SystemUnderTest
    images: list[str]
    about: dict[str, Any]  # the facts of `SystemServer.about`
    starts: StartTimes
    worker: Worker | None  # None: a process is started for each use, and ended after it
    rows: list[Row] = field(default_factory=list)
    # By batch size: the last warm-up, the power of each turn, and the peaks after the last turn
    warmups: dict[int, Warmup] = field(default_factory=dict)
    power: dict[int, list[PowerReading]] = field(default_factory=dict)
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def process(self) -> Iterator[Worker]:
        """Give the process, which knows the images.

        Raises:
            NumclipError: if it does not start, or dies.
        """
        if self.worker is not None:
            yield self.worker
            return
        with launch(self.system, self.images[0]) as worker:
            worker.ask("images", paths=self.images)
            yield worker

    def warm(self, worker: Worker, batch: int, plan: Plan, *, least: int = 1) -> None:
        """Warm the process up at a batch size, with at least so many batches."""
        found = worker.ask("warm", batch=batch, limit_s=plan.warmup_s, least=least)
        self.warmups[batch] = from_plain(Warmup, found)

    def turn(self, _: int, *, batches: Sequence[int], plan: Plan) -> dict[int, Stamps]:
        """Measure one turn at each batch size, with its power."""
        iterations, seconds = -(-plan.iterations // plan.rounds), None
        if plan.duration is not None:
            iterations, seconds = 1, plan.duration / plan.rounds
        length = {"untimed": plan.untimed, "iterations": iterations, "seconds": seconds}
        found = {}
        with self.process() as worker:
            for batch in batches:
                if plan.reload:
                    least = -(-WARM_IMAGES // batch) if batch == batches[0] else 1
                    self.warm(worker, batch, plan, least=least)
                with PowerSampler("cpu" if self.about["device"] == "cpu" else "gpu") as power:
                    found[batch] = np.array(worker.ask("turn", batch=batch, **length), np.int64)
                self.power.setdefault(batch, []).append(power.reading)
                self.memory[batch] = worker.ask("memory")
        return found


def run_family(
    systems: Systems, plan: Plan, images: list[str], ceilings: Ceilings | None
) -> list[Run]:
    """Measure systems with the same weights against each other; the processes end.

    Notes on those that could not be measured go to `systems.notes`.

    Raises:
        NumclipError: if an artefact, which was asked for by name, cannot be run.
    """
    runs: list[Run] = []
    with ExitStack() as stack:
        for system in track("starting", systems.systems):
            try:
                runs.append(start(system, images, plan))
            except NumclipError as error:
                if system.kind == ARTEFACT and system.backend is None:
                    raise
                absent = isinstance(error, (GpuRequiredError, MissingDependencyError))
                verb = "is left out" if absent else "failed"
                systems.notes.append(f"{system.name} {verb}: {error}")
            else:
                if (worker := runs[-1].worker) is not None:
                    stack.callback(worker.close)
        if runs:
            sizes = sorted(plan.batches)
            for batches in [sizes] if plan.reload else [[size] for size in sizes]:
                _measure(runs, plan, batches, systems.notes)
            _compare(runs, images[:PHOTOS], systems.notes)
            if plan.data is not None:
                _judge(runs, plan.data)
    for run in runs:
        for row in run.rows:
            if ceilings and row.device == "cpu" and row.kind != "zero-shot":
                inference_ms = row.stages_ms["inference"].p50
                row.ceiling_share = ceilings.share(
                    systems.macs, inference_ms, batch=row.batch, precision=row.precision
                )
        systems.notes += [note for note in run.about["notes"] if note not in systems.notes]
    return runs


def launch(system: SystemUnderTest, image: str) -> Worker:
    """Start a system's process, which loads it and predicts an image."""
    server = "benchmarks.bench.processes.system_server:SystemServer"
    return Worker(server, system.name, system=asdict(system), image=image)


def start(system: SystemUnderTest, paths: list[str], plan: Plan) -> Run:
    """Start a process a few times, for its first prediction; keep the last, unless reloaded."""
    begin, seconds = perf_counter(), []
    while True:
        worker = launch(system, paths[0])
        seconds.append(worker.first_s)
        if len(seconds) >= plan.starts or perf_counter() - begin > STARTS_S:
            break
        worker.close()
    if plan.reload:
        worker.close()
    else:
        worker.ask("images", paths=paths)
    times = StartTimes(median(seconds), min(seconds), max(seconds), len(seconds))
    return Run(system, paths, worker.first, times, None if plan.reload else worker)


def fit_for(batch: int, runs: list[Run], notes: list[str]) -> list[Run]:
    """Return the systems to measure at a batch size; a note says which one is left out.

    Where a GPU is measured, the CPU's reference is left out above MOST_BESIDE_GPU.
    """
    gpu = any(run.about["device"] != "cpu" for run in runs)
    if batch <= MOST_BESIDE_GPU or not gpu:
        return runs
    fit = [r for r in runs if r.about["device"] != "cpu" or r.system.kind != REFERENCE]
    notes += [
        f"{run.system.name} is measured on the CPU up to batches of {MOST_BESIDE_GPU}, not of "
        f"{batch}."
        for run in runs
        if run not in fit
    ]
    return fit


def compared_with(runs: list[Run]) -> int:
    """Return the index of the run whose speed is 1: PyTorch's float32, else the first."""
    kinds = [run.system.kind for run in runs]
    return next((kinds.index(kind) for kind in (REFERENCE, GPU_REFERENCE) if kind in kinds), 0)


def _measure(runs: list[Run], plan: Plan, batches: Sequence[int], notes: list[str]) -> None:
    """Warm up, take turns at the batch sizes, and add a row for each."""
    fit = {batch: fit_for(batch, runs, notes) for batch in batches}
    # Number of a system -> its batch sizes
    sizes = {i: [b for b in batches if run in fit[b]] for i, run in enumerate(runs)}
    label = f"batch {', '.join(map(str, batches))}"
    if not plan.reload:  # else in each turn
        for i, run in track(f"warm-up, {label}", list(enumerate(runs))):
            with run.process() as worker:
                for batch in sizes[i]:
                    run.warm(worker, batch, plan)
    turns = {
        i: partial(runs[i].turn, batches=found, plan=plan) for i, found in sizes.items() if found
    }
    stamps = interleave(turns, plan.rounds, order="shuffled", pause_s=PAUSE_S, label=label)
    for batch in batches:
        of_batch = {
            i: [turn[batch] for turn in stamps[i]] for i, found in sizes.items() if batch in found
        }
        base = list(of_batch)[compared_with([runs[i] for i in of_batch])]
        for i, found in of_batch.items():
            row = _row(runs[i], Timings.from_stamps(np.concatenate(found), batch=batch))
            if i != base:
                row.ratio = ratio(found, of_batch[base], to=runs[base].system.name)
            done = batch * sum(plan.untimed + len(part) for part in found)
            row.power = sum_power(runs[i].power[batch], done)
            runs[i].rows.append(row)
        if plan.rate is not None:
            for i in track(f"{plan.rate:g} img/s, batch {batch}", list(of_batch)):
                with runs[i].process() as worker:
                    asked = {"batch": batch, "rate": plan.rate, "seconds": plan.rate_s}
                    runs[i].rows[-1].rate = from_plain(FixedRate, worker.ask("rate", **asked))


def _row(run: Run, timings: Timings) -> Row:
    about, system = run.about, run.system
    total, inference = (
        [round(ms, 4) for ms in timings.stages[stage].tolist()] for stage in (TOTAL, "inference")
    )
    return Row(
        name=system.name,
        kind=system.kind,
        model=system.model.name,
        sha256=sha256(system.model),
        **{key: about[key] for key in ("backend", "provider", "device", "precision")},
        batch=timings.batch,
        threads=system.threads,
        # nothing is uploaded to a CPU
        stages_ms={stage: s for stage, s in timings.summaries.items() if s.max > 0},
        total_ms_samples=total,
        inference_ms_samples=inference,
        throughput_img_s=timings.throughput_img_s,
        first_prediction_s=run.starts.median,
        first_prediction=run.starts,
        warmup=run.warmups[timings.batch],
        **run.memory[timings.batch],
    )


def _compare(runs: list[Run], photos: list[str], notes: list[str]) -> None:
    """Add fidelity to the rows, where PyTorch's float32 took part; note where it fails."""
    reference = next((run for run in runs if run.system.kind == REFERENCE), None)
    if reference is None:
        return

    def outputs(worker: Worker, batch: int) -> Outputs:
        return from_plain(Outputs, worker.ask("outputs", paths=photos, batch=batch))

    with reference.process() as worker:
        exact = outputs(worker, 1)
    for run in track("fidelity", runs):
        if run.system.family == reference.system.family:
            try:
                with run.process() as worker:
                    for row in run.rows:
                        row.fidelity = outputs(worker, row.batch).compare(exact)
            except NumclipError as error:  # its times are kept
                notes.append(f"{run.system.name}: its fidelity could not be measured: {error}")


def _judge(runs: list[Run], data: Path) -> None:
    """Add the error on labelled images to the rows."""
    labelled = Labelled.read(data, Task.from_dict(runs[0].about["task"]))
    for run in track("labelled images", runs):
        with run.process() as worker:
            values = worker.ask("values", paths=labelled.paths)
        error = labelled.mae(values, run.about["unit"])
        for row in run.rows:
            row.mae = error
