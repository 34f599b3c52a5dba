"""Measure the monitor of `numclip-run --monitor`: false alarms, and how soon changes are noticed.

Run from the repository: `python benchmarks/monitor.py --data DIR`, a quarter of an hour on 2 cores.
DIR holds the folders tomato-freshness, pv-cells and blood-cells, as for `real.py`. A small model is
trained on each, and training stores its reference; that of the packaged model `quality` is made of
tomatoes. Weights trained on pv-cells, which is for non-commercial use, are deleted.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

# run by its path: the repository joins the import path, which the processes started here inherit
if not __package__ and __name__ == "__main__":
    __import__("script")

import numpy as np

from benchmarks.bench.machine.environment import REPOSITORY, describe_environment
from benchmarks.bench.machine.state import load_average
from benchmarks.bench.monitoring.changes import CHANGES
from benchmarks.bench.monitoring.small_models import images_of, trained
from benchmarks.bench.monitoring.trials import (
    detections,
    false_alarms,
    long_false_alarms,
    rows_of_images,
)
from benchmarks.bench.realsets.image_sets import SETS, SETS_FOLDER, missing
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path, atomic_text
from numclip_runtime.model_files.model_file import read_metadata
from numclip_runtime.model_files.names import model_path
from numclip_runtime.monitor.monitor import FALSE_ALARM_RATE, Monitor
from numclip_runtime.monitor.reference import MonitorReference, Numbers, reference_of
from numclip_runtime.monitor.statistics import STATISTICS, input_statistics
from numclip_runtime.results.prediction import Prediction

QUIET = 60  # images before a change


@click.command(context_settings=SETTINGS)
@click.option("--data", type=FILE, default=SETS_FOLDER, help="The sets.")
@click.option(
    "--json",
    "json_path",
    type=FILE,
    default=REPOSITORY / "benchmarks" / "results" / "monitor.json",
    help="Results.",
)
@click.option("--plot", type=FILE, help="Also draw them (.png or .svg).")
@click.option("--work", type=FILE, default=Path("monitor-work"), help="Models and statistics.")
@click.option("--trials", type=click.IntRange(1), default=200, help="Resampled calibration sets.")
@click.option("--streams", type=click.IntRange(1), default=40, help="Streams with a change.")
def main(
    data: Path, json_path: Path, plot: Path | None, work: Path, trials: int, streams: int
) -> None:
    """Resample calibration sets and change the world, and count what the monitor says."""
    from benchmarks.bench.monitoring.monitor_picture import save_monitor_plot
    from benchmarks.bench.plots.picture import check_plot
    from benchmarks.bench.realsets.npm_tower import tower_file

    with exit_on_error():
        if plot is not None:
            check_plot(plot)
        present = [each for each in SETS if not missing(each, data)]
        if not present:
            raise UsageError(f"{data}: holds none of the {len(SETS)} sets; give --data.")
        work.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {
            "schema": 1,
            "environment": asdict(describe_environment(argv=sys.argv, load_before=load_average())),
            "false_alarm_rate": FALSE_ALARM_RATE,
            "cost_us": cost_us(),
            "long_streams": [
                {"reference": count, "images": images, "streams": 2000}
                | {"shares": long_false_alarms(images, count, trials=2000, seed=count)}
                for count, images in ((25, 10_000), (400, 10_000))
            ],
            "sets": [],
        }
        tower = tower_file(work)
        for each in present:
            model = trained(each, data, tower, work / each.name)
            report["sets"].append(
                measure_monitor(each.name, each.name, model, work / each.name, trials, streams)
            )
            if each.name == "tomato-freshness":
                packaged = model_path("quality")
                report["sets"].append(
                    measure_monitor(
                        "quality", each.name, packaged, work / each.name, trials, streams
                    )
                )
        for result in report["sets"]:
            click.echo(monitor_table(result))
        report["load_after"] = load_average()
        with atomic_text(json_path) as file:
            file.write(json.dumps(report, indent=1) + "\n")
        if plot is not None:
            with atomic_path(plot) as temporary:
                save_monitor_plot(temporary, report, kind=plot.suffix[1:].lower())


def measure_monitor(
    name: str, set_name: str, model: Path, folder: Path, trials: int, streams: int
) -> dict[str, Any]:
    """Return the results of one model on one set."""
    val, test = images_of(folder, "val"), images_of(folder, "test")
    rows = {"val": _rows(name, model, folder, "val", "none", val)}
    for change in CHANGES:
        rows[change.key] = _rows(name, model, folder, "test", change.key, test)
    stored = read_metadata(model).reference  # by training; the packaged model has none
    reference = stored or reference_of(rows["val"], STATISTICS)  # as --write-reference makes it
    assert reference is not None
    alarms, p_values = false_alarms(np.concatenate([rows["val"], rows["none"]]), trials)
    return {
        "name": name,
        "images": set_name,
        "reference_images": reference.images,
        "reference_stored": stored is not None,
        "resampled": {
            "sets": trials,
            "images": (len(val) + len(test)) - (len(val) + len(test)) // 2,
            "false_alarms": alarms,
            "smallest_p_values": sorted(p_values)[:5],
        },
        "changes": {
            change.key: {"label": change.label}
            | asdict(
                detections(reference, rows["none"], rows[change.key], quiet=QUIET, trials=streams)
            )
            for change in CHANGES
        },
    }


def _rows(
    name: str, model: Path, folder: Path, part: str, change: str, paths: list[str]
) -> Numbers:
    """Return the statistics of a part, which a run before may have left."""
    place = folder / f"{name}-{part}-{change}.npy"
    if not place.is_file():
        apply = next(each.apply for each in CHANGES if each.key == change)
        with atomic_path(place) as temporary:
            np.save(temporary, rows_of_images(model, paths, apply))
    loaded: Numbers = np.load(place)
    return loaded


def cost_us() -> dict[str, float]:
    """Return the time that a monitor takes for an image of 224 x 224, us: least of 20 rounds."""
    rng = np.random.default_rng(0)
    reference = reference_of(rng.normal(size=(500, len(STATISTICS))), STATISTICS)
    assert isinstance(reference, MonitorReference)
    monitor = Monitor(reference)
    said = Prediction(0.1, "", (0.0, 1.0), "a", dict.fromkeys("abcde", 0.2))
    planes = rng.normal(size=(1, 3, 224, 224)).astype(np.float32)
    pixels = rng.integers(0, 256, (1, 224, 224, 3), np.uint8)
    half = (0.5, 0.5, 0.5)

    def least(work: Any) -> float:
        times = []
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(100):
                work()
            times.append((time.perf_counter() - started) / 100)
        return round(min(times) * 1e6, 1)

    return {
        "add": least(lambda: monitor.add(said, (0.0,) * 6)),
        "input_float32": least(lambda: input_statistics(planes, half, half)),
        "input_uint8": least(lambda: input_statistics(pixels, half, half)),
    }


def monitor_table(result: dict[str, Any]) -> str:
    """Return the results of one model for people."""
    resampled = result["resampled"]
    lines = [
        f"{result['name']}: reference of {result['reference_images']} images; "
        f"{resampled['false_alarms']} false alarms in {resampled['sets']} resampled sets of "
        f"{resampled['images']} images"
    ]
    for change in result["changes"].values():
        images = change["images"]
        took = f"median {images[len(images) // 2]}, most {images[-1]} images" if images else "-"
        lines.append(
            f"  {change['label']:<42} {change['found']:>3} of {change['trials']}  {took}  "
            f"{', '.join(change['statistics'][:2])}  early {change['early']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
