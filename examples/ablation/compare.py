"""Ablation: does language in coarse bins, and FCRC, help to read numbers?

A small CLIP is trained on rendered pictures with vague captions; then each method learns exact
numbers from the same backbone, pictures and number of steps. Learning rates are chosen for each
method, task and training set on validation pictures with a seed of their own; one picture set of
1,000 tests all. An interrupted run goes on where it stopped.
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
from examples.ablation.report import save_plot, table
from examples.ablation.run import RATES, TUNING_SEED, Run, Size, execute
from examples.ablation.scenes import TASKS
from numclip_runtime import UsageError
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.files import atomic_path, atomic_text

QUICK = Size(pretrain_pictures=256, pretrain_epochs=1, full=60, val=40, test=40, steps=2, seeds=2)
Results = dict[str, dict[str, Any]]  # Run.key -> what `execute` measured


def tuning_runs(size: Size) -> Iterable[Run]:
    """Yield the runs that choose the learning rates."""
    for run in _runs(size, [TUNING_SEED]):
        if METHODS[run.method].trained:
            yield from (replace(run, rates=rates) for rates in RATES)


def final_runs(size: Size, results: Results) -> Iterable[Run]:
    """Yield the runs that are reported, each with the rates that validated best."""
    for run in _runs(size, range(size.seeds)):
        if not METHODS[run.method].trained:
            if run.seed == 0 and run.shots == size.shots[0]:
                yield run
            continue
        tuned = {r: results[replace(run, seed=TUNING_SEED, rates=r).key] for r in RATES}
        yield replace(run, rates=min(RATES, key=lambda r: tuned[r]["val_mae"]))


def _runs(size: Size, seeds: Iterable[int]) -> Iterable[Run]:
    for seed in seeds:
        for task in TASKS:
            for shots in size.shots:
                for method in METHODS:
                    yield Run(method, task, shots, seed, RATES[0])


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
    _WORKER.update(weights=weights, size=size)


_WORKER: dict[str, Any] = {}


def _work(run: Run) -> tuple[Run, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run, execute(run, _WORKER["size"], _WORKER["weights"])


def execute_all(
    runs: Iterable[Run], results: Results, map_runs: Callable[..., Any], keep: Callable[[], None]
) -> None:
    """Execute the runs that have no result yet, and keep each result at once."""
    todo = [run for run in runs if run.key not in results]
    for number, (run, found) in enumerate(map_runs(_work, todo), start=1):
        results[run.key] = {"rates": list(run.rates), **found}
        keep()
        click.echo(f"{number:>4}/{len(todo)}  {run.key:<40} MAE {found['mae']:.2f}")


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
    """Compare methods on rendered counts and severities; takes about an hour on 2 cores."""
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
