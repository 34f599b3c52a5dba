"""A whole latency run: families of systems, the machine's state around them, start-up, ceilings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.baselines.registry import NNCF, REFERENCE
from benchmarks.bench.images import CALIBRATION_SEED, FEW, open_images
from benchmarks.bench.machine.ceilings import Ceilings
from benchmarks.bench.machine.disturbances import disturbances
from benchmarks.bench.machine.energy import PowerReading
from benchmarks.bench.machine.environment import describe_environment
from benchmarks.bench.machine.state import capture, load_average
from benchmarks.bench.models import RANDOM, full_size
from benchmarks.bench.processes.startup import first_predictions
from benchmarks.bench.processes.worker import call_apart
from benchmarks.bench.results import (
    SCHEMA,
    Document,
    Row,
    RunEnvironment,
    Startup,
    State,
    from_plain,
)
from benchmarks.bench.run import Plan, Progress, no_progress, run_family
from benchmarks.bench.systems import Choice, Family, choose_systems
from numclip_runtime import NumclipError


@dataclass(frozen=True)
class Request:
    """The subject of a run."""

    models: tuple[Path, ...]  # none: full-size ones are made
    checkpoint: Path | None  # that they come from
    sizes: tuple[str, ...]  # of full-size models
    images: Path | None  # folder; None: made ones
    plan: Plan
    choice: Choice


def measure_all(
    request: Request, *, argv: Sequence[str], progress: Progress = no_progress
) -> Document:
    """Measure.

    Args:
        request: Models, images, plan.
        argv: Command line, script first.
        progress: Shows how far it is.

    Raises:
        NumclipError: if a model or an image cannot be used.
    """
    plan, choice = request.plan, request.choice
    notes: list[str] = []
    families = _families(request, notes, progress)
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
        ceilings = _ceilings(choice, notes, progress)
        rows: list[Row] = []
        versions: dict[str, str] = {}
        power: list[PowerReading] = []
        for systems in chosen:
            found = run_family(systems, plan, images, ceilings, progress=progress)
            rows += found.rows
            versions |= found.versions
            power += found.power
            notes += [note for note in systems.notes if note not in notes]
        startup = _startup(families[0], request, images.paths[0], notes, progress)
        after = capture()
        machine = describe_environment(argv=argv, load_before=load_before)
    machine.versions |= versions
    environment = RunEnvironment(
        **vars(machine),
        images=images.about,
        threads=choice.threads,
        iterations=plan.iterations,
        duration=plan.duration,
        rounds=plan.rounds,
        ceilings_with=ceilings.library if ceilings else None,
    )
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
    return re.sub(rf"{re.escape(str(Path.home()))}/\S*/", "", text)


def _families(request: Request, notes: list[str], progress: Progress) -> list[Family]:
    if request.models:
        return [Family(request.models, request.checkpoint)]
    families = []
    with progress("making models", len(request.sizes)) as tick:
        for name in request.sizes:
            made = full_size(name)
            notes.append(f"{name}: {RANDOM}.")
            notes += [made.note] if made.note else []
            families.append(Family(made.models, made.checkpoint))
            tick()
    return families


def _startup(
    family: Family, request: Request, image: str, notes: list[str], progress: Progress
) -> dict[str, Startup] | None:
    """Compare the smallest ONNX file in the lean runtime with its checkpoint in PyTorch."""
    models = [path for path in family.models if path.suffix == ".onnx"]
    if family.checkpoint is None or not models or REFERENCE not in request.choice.baselines:
        return None
    model = min(models, key=lambda path: path.stat().st_size)
    runs, threads = request.plan.starts, request.choice.threads
    with progress("start-up", 2 * runs) as tick:
        try:
            return first_predictions(
                model, family.checkpoint, image, threads=threads, runs=runs, tick=tick
            )
        except NumclipError as error:
            notes.append(f"start-up was not measured: {error}")
            return None


def _ceilings(choice: Choice, notes: list[str], progress: Progress) -> Ceilings | None:
    with progress("matrix products", 1) as tick:
        try:
            target = "benchmarks.bench.machine.ceilings:measure_ceilings"
            found = from_plain(Ceilings, call_apart(target, threads=choice.threads))
        except NumclipError as error:
            notes.append(f"the machine's ceiling is not known: {error}")
            return None
        tick()
    return found
