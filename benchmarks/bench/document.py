"""A whole latency run: families of systems, the machine's state around them, start-up, ceilings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench.baselines.registry import NNCF, REFERENCE
from benchmarks.bench.images import CALIBRATION_SEED, FEW, open_images
from benchmarks.bench.interleave import interleave, track
from benchmarks.bench.machine.ceilings import Ceilings
from benchmarks.bench.machine.disturbances import disturbances
from benchmarks.bench.machine.environment import describe_environment
from benchmarks.bench.machine.state import capture, load_average
from benchmarks.bench.models import RANDOM, full_size
from benchmarks.bench.processes.worker import Worker, call_apart
from benchmarks.bench.results import SCHEMA, Document, RunEnvironment, Startup, State, from_plain
from benchmarks.bench.run import Plan, Run, run_family
from benchmarks.bench.systems import Choice, Family, choose_systems
from numclip_runtime import NumclipError
from numclip_runtime.system import cache_folder

# Timed by turns, and compared in the document: name -> program, and its argument with the file
PROGRAMS = {
    "numclip_runtime": ("benchmarks.bench.processes.programs:predict_with_runtime", "model"),
    "torch": ("benchmarks.bench.processes.programs:predict_with_torch", "checkpoint"),
}


@dataclass(frozen=True)
class Request:
    """The subject of a run."""

    models: tuple[Path, ...]  # none: full-size ones are made
    checkpoint: Path | None  # that they come from
    sizes: tuple[str, ...]  # of full-size models
    images: Path | None  # folder; None: made ones
    plan: Plan
    choice: Choice


def measure_all(request: Request, *, argv: Sequence[str]) -> Document:
    """Measure what is asked for; `argv` is the command line, script first.

    Raises:
        NumclipError: if a model or an image cannot be used.
    """
    plan, choice = request.plan, request.choice
    notes: list[str] = []
    families = [Family(request.models, request.checkpoint)]
    if not request.models:
        made = [(name, full_size(name)) for name in track("making models", request.sizes)]
        families = [Family(model.models, model.checkpoint) for _, model in made]
        for name, model in made:
            notes += [f"{name}: {RANDOM}.", *([model.note] if model.note else [])]
    with ExitStack() as stack:
        images = stack.enter_context(open_images(request.images))
        if len(images.paths) < FEW:
            notes.append(
                f"only {len(images.paths)} different images: caches may flatter decoding; "
                f"give {FEW} or more."
            )
        calibration = images
        if request.images is None and NNCF in choice.baselines:
            calibration = stack.enter_context(open_images(None, seed=CALIBRATION_SEED))
        chosen = [choose_systems(family, choice, calibration.paths) for family in families]
        load_before = load_average()
        before = capture()
        ceilings = _ceilings(choice, notes)
        runs: list[Run] = []
        rows = []
        for systems in chosen:
            family_runs = run_family(systems, plan, images.paths, ceilings)
            found = [row for run in family_runs for row in run.rows]
            rows += sorted(found, key=lambda row: row.batch)  # stable: the systems' order stays
            runs += family_runs
            notes += [note for note in systems.notes if note not in notes]
        startup = _startup(families[0], request, images.paths[0], notes)
        after = capture()
        machine = describe_environment(argv=argv, load_before=load_before)
    for run in runs:
        machine.versions |= run.about["versions"]
    environment = RunEnvironment(
        **vars(machine),
        images=images.about,
        threads=choice.threads,
        iterations=plan.iterations,
        duration=plan.duration,
        rounds=plan.rounds,
        ceilings_with=ceilings.library if ceilings else None,
        reload=plan.reload,
    )
    power = [reading for run in runs for part in run.power.values() for reading in part]
    return Document(
        schema=SCHEMA,
        environment=environment,
        state=State(before, after, disturbances(before, after, power)),
        ceilings_gflops=ceilings.gflops if ceilings else None,
        startup=startup,
        rows=rows,
        notes=[without_home(note) for note in notes],
    )


def without_home(text: str) -> str:
    """Leave out where this user's files are: results are published."""
    folders = "|".join(re.escape(str(folder)) for folder in (Path.home(), cache_folder()))
    return re.sub(rf"(?:{folders})/\S*/", "", text)


def _ceilings(choice: Choice, notes: list[str]) -> Ceilings | None:
    target = "benchmarks.bench.machine.ceilings:measure_ceilings"
    try:
        return from_plain(Ceilings, call_apart(target, threads=choice.threads))
    except NumclipError as error:
        notes.append(f"the machine's ceiling is not known: {error}")
        return None


def _startup(
    family: Family, request: Request, image: str, notes: list[str]
) -> dict[str, Startup] | None:
    """Compare the smallest ONNX file in the lean runtime with its checkpoint in PyTorch."""
    models = [path for path in family.models if path.suffix == ".onnx"]
    if family.checkpoint is None or not models or REFERENCE not in request.choice.baselines:
        return None
    files = {
        "numclip_runtime": min(models, key=lambda path: path.stat().st_size),
        "torch": family.checkpoint,
    }
    try:
        return first_predictions(
            files, image, threads=request.choice.threads, runs=request.plan.starts
        )
    except NumclipError as error:
        notes.append(f"start-up was not measured: {error}")
        return None


def first_predictions(
    files: dict[str, Path], image: str, *, runs: int, threads: int | None = None
) -> dict[str, Startup]:
    """Time PROGRAMS as users would write them, from process start to the first prediction.

    Args:
        files: Name of a program -> its model or checkpoint.
        image: To predict.
        runs: Processes per program.
        threads: CPU threads inside one inference; None: the backend's choice.

    Raises:
        NumclipError: if one of the processes fails.
    """

    def turn(name: str, _: int) -> tuple[float, dict[str, Any]]:
        target, argument = PROGRAMS[name]
        given = {argument: str(files[name]), "image": image, "threads": threads}
        with Worker(target, f"first prediction with {name}", **given) as worker:
            (facts,) = worker.rest()
            return worker.first_s, facts

    found = interleave({name: partial(turn, name) for name in files}, runs, label="start-up")
    return {name: summarise_starts(starts) for name, starts in found.items()}


def summarise_starts(starts: Sequence[tuple[float, dict[str, float]]]) -> Startup:
    """Summarise processes: seconds to the first prediction, and the facts each reported."""
    times = [seconds for seconds, _ in starts]
    facts = {key: median(each[key] for _, each in starts) for key in ("import_s", "peak_host_mb")}
    return Startup(median(times), min(times), max(times), len(times), **facts)
