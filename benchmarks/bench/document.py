"""The document of a run: environment, state of the machine, ceilings and rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.baselines.registry import REFERENCE
from benchmarks.bench.images import CALIBRATION_SEED, FEW, open_images
from benchmarks.bench.machine.environment import describe_environment, load_average
from benchmarks.bench.models import RANDOM, full_size
from benchmarks.bench.output.table import SCHEMA
from benchmarks.bench.run import Plan, Progress, no_progress, run_family
from benchmarks.bench.systems import Choice, Family, line_up
from benchmarks.bench.worker import call_apart
from benchmarks.first_prediction import first_predictions
from benchmarks.state import capture, warnings
from numclip_runtime import NumclipError


@dataclass(frozen=True)
class Request:
    """What a run is to measure."""

    models: tuple[Path, ...]  # none: full-size ones are made
    checkpoint: Path | None  # that they come from
    sizes: tuple[str, ...]  # of full-size models
    images: Path | None  # folder; None: made ones
    plan: Plan
    choice: Choice


def measure_all(
    request: Request, *, argv: Sequence[str], progress: Progress = no_progress
) -> dict[str, Any]:
    """Measure; return the document, see `tests/data/latency.sample.json`.

    Args:
        request: What to measure.
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
        if request.images is None and "nncf-int8" in choice.peers:
            calibration = stack.enter_context(open_images(None, seed=CALIBRATION_SEED))
        lineups = [line_up(family, choice, calibration.paths) for family in families]
        load_before = load_average()
        before = capture()
        ceiling = _ceilings(choice, notes, progress)
        rows: list[dict[str, Any]] = []
        versions: dict[str, str] = {}
        power: list[dict[str, Any]] = []
        for lineup in lineups:
            found = run_family(lineup, plan, images, ceiling, progress=progress)
            rows += found.rows
            versions |= found.versions
            power += found.power
            notes += [note for note in lineup.notes if note not in notes]
        startup = _startup(families[0], request, images.paths[0], notes, progress)
        after = capture()
        environment = describe_environment(argv=argv, load_before=load_before)
    environment["versions"] |= versions
    return {
        "schema": SCHEMA,
        "environment": environment
        | {
            "images": images.description,
            "threads": choice.threads,
            "iterations": plan.iterations,
            "duration": plan.duration,
            "rounds": plan.rounds,
            "ceilings_with": (ceiling or {}).pop("with", None),
        },
        "state": {
            "before": before,
            "after": after,
            "warnings": warnings(before, after, power),
        },
        "ceilings_gflops": ceiling,
        "startup": startup,
        "rows": rows,
        "notes": [_without_home(note) for note in notes],
    }


def _without_home(text: str) -> str:
    """Leave out where this user's files are: results are for others."""
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
) -> dict[str, dict[str, float]] | None:
    """Compare the smallest ONNX file in the lean runtime with its checkpoint in PyTorch."""
    models = [path for path in family.models if path.suffix == ".onnx"]
    if family.checkpoint is None or not models or REFERENCE not in request.choice.peers:
        return None
    model = min(models, key=lambda path: path.stat().st_size)
    runs = request.plan.starts
    with progress("start-up", 2 * runs) as tick:
        try:
            return first_predictions(
                model,
                family.checkpoint,
                image,
                threads=request.choice.threads,
                runs=runs,
                tick=tick,
            )
        except NumclipError as error:
            notes.append(f"start-up was not measured: {error}")
            return None


def _ceilings(choice: Choice, notes: list[str], progress: Progress) -> dict[str, Any] | None:
    with progress("matrix products", 1) as tick:
        try:
            found: dict[str, Any] = call_apart(
                "benchmarks.bench.machine.ceilings", "measure", threads=choice.threads
            )
        except NumclipError as error:
            notes.append(f"the machine's ceiling is not known: {error}")
            return None
        tick()
    return found
