"""Measure jobs of `numclip-run`, in one process and with Ray's actors, by turns.

Run where Ray is installed: `python benchmarks/ray_job.py model.onnx --images photos`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.machine.environment import script_report
from benchmarks.bench.machine.state import load_average
from benchmarks.bench.output.table import markdown_lines
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import NumclipError
from numclip_runtime.files import sha256
from numclip_runtime.images.folder import find_images

_JOB_S = re.compile(r"images? in ([0-9.]+) s")


@dataclass(frozen=True)
class JobRun:
    """One run over all images."""

    actors: int  # 0: one process, without Ray
    seconds: float  # of the whole command
    job_seconds: float  # without the start of Python, of Ray and of the backend
    load_average: float  # of the machine, over the last minute


@click.command(context_settings=SETTINGS)
@click.argument("model", type=FILE)
@click.option("--images", type=click.Path(exists=True), required=True, help="Folder of images.")
@click.option("--repeat-to", type=click.IntRange(1), default=2000, help="Images in all.")
@click.option("--actors", type=click.IntRange(1), multiple=True, default=(1, 2), help="Repeat.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Of all runs.")
@click.option("--json", "json_path", type=FILE, help="Write all figures.")
def main(**options: Any) -> None:
    """Predict images in one process and by 1 and 2 actors; print images/s, compare the records."""
    with exit_on_error():
        measure_jobs(**options, argv=sys.argv)


def measure_jobs(
    model: Path,
    *,
    images: str,
    repeat_to: int = 2000,
    actors: Sequence[int] = (1, 2),
    rounds: int = 3,
    json_path: Path | None = None,
    argv: list[str],
) -> list[JobRun]:
    """Measure, print the table, write the JSON.

    Args:
        model: ONNX file.
        images: Folder; links to its images have names of their own, until there are enough.
        repeat_to: Images in all.
        actors: Numbers of actors.
        rounds: Each has a run in one process and one for each number of actors.
        json_path: File for all figures.
        argv: Command line, script first; named in the JSON.

    Raises:
        NumclipError: if a run fails.
    """
    with (
        script_report(json_path, argv) as write,
        tempfile.TemporaryDirectory(prefix="numclip-job-") as made,
    ):
        folder = Path(made, "images")
        folder.mkdir()
        found = [Path(path).resolve() for path in find_images([images])]
        for number, path in enumerate(itertools.islice(itertools.cycle(found), repeat_to)):
            (folder / f"{number:07}{path.suffix}").symlink_to(path)
        runs, records = list[JobRun](), dict[int, dict[str, Any]]()
        for turn in range(rounds):
            for count in (0, *actors):
                out = Path(made, f"out-{turn}-{count}")
                runs.append(_run(model, folder, out, count))
                records[count] = _records(out)
        differences = {count: _difference(records[0], records[count]) for count in actors}
        click.echo(f"{repeat_to} images, {len(found)} different ones, {rounds} rounds by turns.\n")
        click.echo(job_table(runs, repeat_to))
        click.echo(f"\nLargest difference of a value to one process: {max(differences.values())}.")
        write(
            images={"predicted": repeat_to, "different": len(found)},
            model={"name": model.name, "sha256": sha256(model), "bytes": model.stat().st_size},
            rows=runs,
            # number of actors -> of values, in the task's unit; paths and errors are equal
            largest_difference_to_one_process=differences,
        )
    return runs


def _run(model: Path, images: Path, out: Path, actors: int) -> JobRun:
    command = [sys.executable, "-m", "numclip_runtime", str(model), str(images), "-o", str(out)]
    command += ["--device", "cpu", "--format", "jsonl", "--verbose"]
    command += ["--engine", "ray", "--workers", str(actors)] if actors else ["--resume"]
    start_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    seconds = time.perf_counter() - start_s
    job = _JOB_S.search(done.stderr)
    if done.returncode not in (0, 1) or job is None:  # 1: some images are broken
        raise NumclipError(f"{' '.join(command)}: {done.stderr.strip()}")
    load = load_average()
    return JobRun(actors, seconds, float(job[1]), load[0] if load else 0.0)


def _records(out: Path) -> dict[str, Any]:
    found = {}
    for part in sorted(out.glob("part-*.jsonl")):
        for line in part.read_text("utf-8").splitlines():
            record = json.loads(line)
            if record["path"] in found:
                raise NumclipError(f"{part}: {record['path']} has two records.")
            found[record["path"]] = record
    return found


def _difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Return the largest difference of a value; all else has to be equal."""
    worst = 0.0
    if first.keys() != second.keys():
        raise NumclipError("the runs have records of different images.")
    for path, record in first.items():
        other = second[path]
        if record.get("error") != other.get("error") or record.get("bin") != other.get("bin"):
            raise NumclipError(f"{path}: {record} and {other}")
        if "value" in record:
            worst = max(worst, abs(record["value"] - other["value"]))
    return worst


def job_table(runs: Sequence[JobRun], images: int) -> str:
    """Return the runs as Markdown: medians over the rounds, and the range."""
    lines = []
    kinds = dict.fromkeys(run.actors for run in runs)
    alone = dict(enumerate(run for run in runs if not run.actors))
    for actors in kinds:
        own = [run for run in runs if run.actors == actors]
        rates = sorted(images / run.seconds for run in own)
        job = median(images / run.job_seconds for run in own)
        ratio = median(alone[i].seconds / run.seconds for i, run in enumerate(own))
        name = "one process" if not actors else f"Ray, {actors} actor{'s' * (actors > 1)}"
        spread = f"{median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f})"
        load = f"{median(run.load_average for run in own):.1f}"
        lines.append([name, spread, f"{ratio:.2f}x", f"{job:.1f}", load])
    heading = ("", "images/s", "to one process", "without the start", "load")
    return "\n".join(markdown_lines(heading, lines, [True] + [False] * 4))


if __name__ == "__main__":
    main()
