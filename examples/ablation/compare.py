"""Ablation: does language in coarse bins, and FCRC, help to read numbers?

A small CLIP, whose logits lie where OpenAI's do, is trained on rendered pictures with vague
captions; then each method learns exact numbers from the same backbone, pictures and number of
steps. Learning rates, among them a frozen tower's, are chosen for each method, task and training
set by the mean validation error of three seeds of their own; one picture set of 2,000 tests all.
An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

if __name__ == "__main__":  # run as a script: the repository is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.bench.machine.environment import describe_environment
from benchmarks.bench.machine.state import load_average
from examples.ablation.methods import METHODS
from examples.ablation.report import level_lines, save_plot, table
from examples.ablation.run import TUNING_SEED, Rates, Run, Size, World, execute, grid, levels
from examples.ablation.scenes import TASKS
from numclip_runtime import UsageError
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.files import atomic_path, atomic_text

QUICK = Size(
    pretrain_pictures=256,
    pretrain_epochs=1,
    full=60,
    val=40,
    test=40,
    steps=2,
    seeds=2,
    tuning_seeds=1,
)
Results = dict[str, dict[str, Any]]  # Run.key -> what `execute` measured


def tuning_runs(size: Size) -> Iterable[Run]:
    """Yield the runs that choose the learning rates."""
    for run in _runs(size, _tuning_seeds(size)):
        if METHODS[run.method].trained:
            yield from (replace(run, rates=rates) for rates in grid(run.shots))


def final_runs(size: Size, results: Results) -> Iterable[Run]:
    """Yield the runs that are reported, each with the rates that validated best."""
    for run in _runs(size, range(size.seeds)):
        method = METHODS[run.method]
        if method.trained:
            yield replace(run, rates=best_rates(run, size, results))
        elif method.ridge or (run.seed == 0 and run.shots == size.shots[0]):
            yield run  # one that does not look at training pictures runs once


def best_rates(run: Run, size: Size, results: Results) -> Rates:
    """Return the rates with the lowest mean validation MAE over the tuning seeds."""

    def error(rates: Rates) -> float:
        tuned = [replace(run, seed=seed, rates=rates).key for seed in _tuning_seeds(size)]
        return sum(float(results[key]["val_mae"]) for key in tuned)

    return min(grid(run.shots), key=error)


def _tuning_seeds(size: Size) -> range:
    return range(TUNING_SEED, TUNING_SEED + size.tuning_seeds)


def _runs(size: Size, seeds: Iterable[int]) -> Iterable[Run]:
    for seed in seeds:
        for task in TASKS:
            for shots in size.shots:
                for method in METHODS:
                    yield Run(method, task, shots, seed, grid(shots)[0])


def pretrained(path: Path, size: Size) -> tuple[dict[str, Any], list[float]]:
    """Return the weights of the small CLIP and its losses; trained once and kept in `path`."""
    import torch

    from examples.ablation.tiny_clip import pretrain

    asked = [size.pretrain_pictures, size.pretrain_epochs]
    if path.is_file():
        stored = torch.load(path, weights_only=True)
        if stored["size"] == asked:
            return stored["weights"], stored["losses"]
    click.echo(f"training a small CLIP on {asked[0]} pictures, {asked[1]} epochs")
    clip, losses = pretrain(*asked)
    with atomic_path(path) as temporary:
        torch.save({"weights": clip.state_dict(), "losses": losses, "size": asked}, temporary)
    return clip.state_dict(), losses


def _start_worker(weights: dict[str, Any], size: Size) -> None:
    import torch

    torch.set_num_threads(1)
    _WORKER.append(World(size, weights))


_WORKER: list[World] = []  # of this process


def _work(run: Run) -> tuple[Run, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run, execute(run, _WORKER[0])


def execute_all(
    runs: Iterable[Run], results: Results, map_runs: Callable[..., Any], keep: Callable[[], None]
) -> None:
    """Execute the runs that have no result yet, and keep each result at once."""
    todo = [run for run in runs if run.key not in results]
    for number, (run, found) in enumerate(map_runs(_work, todo), start=1):
        results[run.key] = {"rates": list(run.rates), **found}
        keep()
        error = found["val_mae"] if run.tuning else found["mae"]
        click.echo(f"{number:>4}/{len(todo)}  {run.key:<56} MAE {error:.2f}")


@click.command(context_settings=SETTINGS)
@click.option(
    "--json",
    "json_path",
    type=FILE,
    default=Path("benchmarks/results/ablation.json"),
    help="Results; an unfinished file of the same size is gone on with.",
)
@click.option("--plot", type=FILE, help="Also draw them (.png or .svg).")
@click.option("--jobs", type=click.IntRange(1), default=2, help="Processes, one thread each.")
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that it runs, proves nothing.")
def main(json_path: Path, plot: Path | None, jobs: int, quick: bool) -> None:
    """Compare methods on rendered counts and severities; an estimated 75 minutes on 2 cores."""
    from benchmarks.bench.plots.picture import check_plot

    with exit_on_error():
        if plot is not None:
            check_plot(plot)
        if not json_path.parent.is_dir():
            raise UsageError(f"{json_path.parent}: no such folder; create it first.")
        report = compare(json_path, QUICK if quick else Size(), jobs)
        click.echo(table(report))
        if plot is not None:
            with atomic_path(plot) as temporary:
                save_plot(temporary, report, kind=plot.suffix[1:].lower())


def compare(json_path: Path, size: Size, jobs: int) -> dict[str, Any]:
    """Do all runs that have no result yet; returns what the file then holds.

    Args:
        json_path: Results, written after each run; the small CLIP is kept beside it meanwhile.
        size: Of the comparison.
        jobs: Processes.

    Raises:
        UsageError: if the file is there and cannot be read.
    """
    report, before = _unfinished(json_path, size), load_average()
    clip_path = json_path.with_suffix(".clip.pt")
    weights, losses = pretrained(clip_path, size)
    results: Results = report.setdefault("results", {})
    report["pretraining_losses"] = [round(loss, 4) for loss in losses]
    report["levels"] = levels(World(size, weights))
    click.echo(level_lines(report))

    def keep() -> None:
        with atomic_text(json_path) as file:
            json.dump(report, file, indent=1)
            file.write("\n")

    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with spawn.Pool(jobs, _start_worker, (weights, size)) as workers:
        execute_all(tuning_runs(size), results, workers.imap_unordered, keep)
        execute_all(final_runs(size, results), results, workers.imap_unordered, keep)
    report["environment"] = asdict(describe_environment(argv=sys.argv, load_before=before))
    keep()
    clip_path.unlink()
    return report


def _unfinished(path: Path, size: Size) -> dict[str, Any]:
    """Return what an interrupted run left, or a fresh report."""
    fresh: dict[str, Any] = {"size": json.loads(json.dumps(asdict(size)))}
    if not path.is_file():
        return fresh
    try:
        before = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise UsageError(f"{path}: is not a JSON file; give another --json.") from None
    if "environment" in before or before.get("size") != fresh["size"]:
        return fresh
    return dict(before)


if __name__ == "__main__":
    main()
