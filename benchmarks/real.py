"""Compare numclip's heads and recipes, and rivals, on three real image sets.

Run from the repository: `python benchmarks/real.py --data DIR`, about two hours on 2 cores. DIR
holds the folders tomato-freshness, pv-cells and blood-cells, each with an `all.csv`; a set that is
missing is skipped. Weights trained on pv-cells, which is for non-commercial use, are deleted.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click

# run by its path: the repository joins the import path, which the processes started here inherit
if not __package__ and __name__ == "__main__":
    __import__("script")

from benchmarks.bench.machine.environment import REPOSITORY, describe_environment
from benchmarks.bench.machine.state import load_average
from benchmarks.bench.realsets.image_sets import SETS, SETS_FOLDER, RealSet, missing, prepare
from benchmarks.bench.realsets.methods import (
    METHODS,
    RealRun,
    Setting,
    command,
    constant,
    execute,
    method_of,
    sides,
)
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path, atomic_text

QUICK_EPOCHS = 1
TRAINED_WITH = (
    *("numpy", "pillow", "torch", "torchvision", "open_clip_torch", "timm", "pytorch-lightning"),
)
_setting: Setting


def _start_worker(setting: Setting) -> None:
    import torch

    torch.set_num_threads(1)
    global _setting
    _setting = setting


def _work(run: RealRun) -> tuple[RealRun, dict[str, Any]]:
    return run, execute(run, _setting)


@click.command(context_settings=SETTINGS)
@click.option("--data", type=FILE, default=SETS_FOLDER, help="The sets.")
@click.option(
    "--json",
    "json_path",
    type=FILE,
    default=REPOSITORY / "benchmarks" / "results" / "real.json",
    help="Results, gone on with: a run whose command is the same is not repeated.",
)
@click.option("--table", "table_path", type=FILE, help="Also write them as Markdown.")
@click.option("--plot", type=FILE, help="Also draw them (.png or .svg).")
@click.option("--work", type=FILE, default=Path("real-work"), help="Smaller copies of the images.")
@click.option("--method", "methods", multiple=True, type=click.Choice([m.key for m in METHODS]))
@click.option("--set", "sets", multiple=True, type=click.Choice([s.name for s in SETS]))
@click.option("--seeds", type=click.IntRange(1), default=5)
@click.option("--jobs", type=click.IntRange(0), default=2, help="Processes; 0: only this one.")
@click.option("--quick", is_flag=True, help="1 seed, 1 epoch: shows that it runs, proves nothing.")
def main(
    data: Path,
    json_path: Path,
    table_path: Path | None,
    plot: Path | None,
    work: Path,
    methods: tuple[str, ...],
    sets: tuple[str, ...],
    seeds: int,
    jobs: int,
    quick: bool,
) -> None:
    """Train every method on every real set and report the errors on test groups."""
    from benchmarks.bench.plots.picture import check_plot
    from benchmarks.bench.realsets.real_report import commands, save_real_plot, table

    with exit_on_error():
        if plot is not None:
            check_plot(plot)
        for sentence in (absent := [s for s in (missing(each, data) for each in SETS) if s]):
            click.echo(sentence)
        present = [each for each in SETS if not missing(each, data)]
        if not present:
            raise UsageError(f"{data}: holds none of the {len(absent)} sets; give --data.")
        chosen = [each for each in present if not sets or each.name in sets]
        keys = [m.key for m in METHODS if not methods or m.key in methods]
        report = compare(
            chosen,
            keys,
            data,
            json_path,
            work,
            seeds=1 if quick else seeds,
            jobs=jobs,
            epochs=QUICK_EPOCHS if quick else None,
        )
        text = table(report)
        click.echo(text)
        if table_path is not None:
            with atomic_text(table_path) as file:
                file.write(f"{text}\n{commands(report)}")
        if plot is not None:
            with atomic_path(plot) as temporary:
                save_real_plot(temporary, report, kind=plot.suffix[1:].lower())


def compare(
    chosen: list[RealSet],
    methods: list[str],
    data: Path,
    json_path: Path,
    work: Path,
    *,
    seeds: int,
    jobs: int,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Do all runs that have no result of the same command yet; return what the file then holds.

    Args:
        chosen: Sets.
        methods: Keys of methods.
        data: Folder of the sets.
        json_path: Results, written after each run.
        work: Folder for smaller copies of the images, the tower's weights and logs.
        seeds: Of the methods that draw anything.
        jobs: Processes of one thread each; 0: this one.
        epochs: In place of each method's own.

    Raises:
        UsageError: if a file cannot be read or fetched, or a training fails.
    """
    work.mkdir(parents=True, exist_ok=True)
    report, before = _read(json_path), load_average()
    report["seeds"] = seeds
    tower = None
    if any(method_of(key).start == "pretrained" for key in methods):
        from benchmarks.bench.realsets.npm_tower import tower_file

        tower = tower_file(work)
    setting = Setting(work.absolute(), tower and tower.absolute(), epochs)
    for image_set in chosen:
        for side in {sides(image_set, method_of(key))[0] for key in methods}:
            folder = prepare(image_set, data, setting.work, side)
        report["constants"][image_set.name] = constant(image_set, folder)
    runs = [
        RealRun(image_set.name, key, seed)
        for seed in range(seeds)
        for key in methods
        for image_set in chosen
        if seed == 0 or not method_of(key).closed
    ]
    results = report["results"]
    planned = {run.key: _shown_command(run, setting) for run in runs}
    todo = [run for run in runs if results.get(run.key, {}).get("command") != planned[run.key]]
    for number, (run, found) in enumerate(_all(todo, setting, jobs), start=1):
        results[run.key] = {**found, "command": planned[run.key]}
        found_here = describe_environment(argv=sys.argv, load_before=before)
        report["environment"] = asdict(found_here) | {"versions": versions()}
        with atomic_text(json_path) as file:
            json.dump(report, file, indent=1)
            file.write("\n")
        click.echo(
            f"{number:>4}/{len(todo)}  {run.key:<44} MAE {found['mae']:.3f}  "
            f"RMSE {found['rmse']:.3f}  {found['seconds']:.0f} s"
        )
    return report


def versions() -> dict[str, str]:
    """Return the versions of the packages that train; other processes import them."""
    return {name: metadata.version(name) for name in TRAINED_WITH}


def _all(
    runs: list[RealRun], setting: Setting, jobs: int
) -> Iterator[tuple[RealRun, dict[str, Any]]]:
    if jobs == 0 or not runs:
        for run in runs:
            yield run, execute(run, setting)
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with spawn.Pool(jobs, _start_worker, (setting,)) as workers:
        yield from workers.imap_unordered(_work, runs)


def _shown_command(run: RealRun, setting: Setting) -> list[str]:
    """Return what tells one run from another, without folders of this machine."""
    if (rival := method_of(run.method).rival) is not None:
        return [rival, *command(run, setting)]
    words = ["numclip-train", *command(run, setting)]
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


def _read(path: Path) -> dict[str, Any]:
    fresh: dict[str, Any] = {"seeds": 0, "constants": {}, "results": {}}
    if not path.is_file():
        return fresh
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise UsageError(f"{path}: is not a JSON file; give another --json.") from None
    return {**fresh, **found}


if __name__ == "__main__":
    main()
