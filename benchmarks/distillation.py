"""Teach a network a quarter as wide: what labels, a teacher, and both are worth.

Run from the repository, on the demo's data or on a real set, each a folder with train.csv, val.csv
and test.csv:

    python benchmarks/distillation.py demo/data --task quality
    python benchmarks/distillation.py ../shared/data/tomato-freshness

It prints and runs five commands: a teacher, the student on labels alone, and the student taught
without labels, with them, and by the teacher alone on the labelled images (`--label-weight 0`).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

if not __package__ and __name__ == "__main__":
    __import__("script")

from benchmarks.bench.machine.environment import describe_environment
from benchmarks.bench.machine.state import load_average
from benchmarks.bench.realsets.image_sets import SETS
from numclip_runtime.console import FILE, SETTINGS, columns, exit_on_error, json_text
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text

WIDTHS = {"teacher": 32, "student": 8}  # of ResNets with one block per level
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}


def network(width: int, side: int) -> dict[str, Any]:
    """Return an open_clip configuration; its text tower is left out."""
    vision = {"image_size": side, "layers": [1, 1, 1, 1], "width": width, "head_width": 32}
    return {"embed_dim": 4 * width, "vision_cfg": vision, "text_cfg": TEXT}


def call(command: str, *words: object) -> None:
    """Print and run a command of this environment."""
    line = [f"numclip-{command}", *map(str, words)]
    click.echo(f"$ {shlex.join(line)}")
    done = subprocess.run([Path(sys.executable).parent / line[0], *line[1:]], check=False)
    if done.returncode:
        raise UsageError(f"{line[0]} failed with exit code {done.returncode}.")


@click.command(context_settings=SETTINGS)
@click.argument("data", type=FILE)
@click.option("--task", help="Preset or .toml file.  [default: that of the real set DATA]")
@click.option("--epochs", type=click.IntRange(1), default=30)
@click.option("--side", type=click.IntRange(32), default=64, help="Of the images, pixels.")
@click.option("--seed", type=int, default=0)
@click.option("-o", "--output", type=FILE, default=Path("build/distillation"))
def main(data: Path, task: str | None, epochs: int, side: int, seed: int, output: Path) -> None:
    """Measure distillation on the images of a folder DATA."""
    with exit_on_error():
        output.mkdir(parents=True, exist_ok=True)
        report = compare_students(data, task, epochs, side, seed, output)
        with atomic_text(output / "distillation.json") as file:
            file.write(json_text(report, indent=2) + "\n")
        click.echo("\n".join(table_of_students(report)))


def compare_students(
    data: Path, task: str | None, epochs: int, side: int, seed: int, output: Path
) -> dict[str, Any]:
    """Train all of them in the folder `output`, and return what was measured."""
    load = load_average()
    sets = {name: data / f"{name}.csv" for name in ("train", "val", "test")}
    for file in sets.values():
        if not file.is_file():
            raise UsageError(f"{file}: no such file; DATA holds train.csv, val.csv and test.csv.")
    geometry: tuple[object, ...] = ("--resize", side)  # no crop
    if task is None:
        known = [each for each in SETS if each.name == data.resolve().name]
        if not known:
            raise UsageError(f"{data}: is none of the real sets; give --task.")
        geometry = () if known[0].margin else geometry
        lines = (f"{key} = {json.dumps(value)}" for key, value in known[0].task.to_dict().items())
        (output / "task.toml").write_text("\n".join(lines), "utf-8")
        task = str(output / "task.toml")
    for name, width in WIDTHS.items():
        (output / f"{name}.json").write_text(json.dumps(network(width, side)), "utf-8")
    how = ("--epochs", epochs, "--batch-size", 32, "--workers", 0, "--seed", seed, "--restart")
    held = ("--val", sets["val"], "--test", sets["test"])
    for name, backbone in (("teacher", "teacher"), ("alone", "student")):
        given = (sets["train"], *held, "--task", task, "--vectors", "prototypes", *geometry)
        model = ("--backbone", output / f"{backbone}.json", "-o", output / f"{name}.pt")
        call("train", *given, *model, *how)
    bare = _links(sets["train"], output / "bare")
    taught = (output / "teacher.pt", "--student", output / "student.json", "--max-loss", 1e9)
    labelled = ("--data", sets["train"], *held)
    runs: dict[str, tuple[object, ...]] = {
        "without labels": ("--images", bare, "--test", sets["test"]),
        "with labels": labelled,
        "teacher alone": (*labelled, "--label-weight", 0),
    }
    reports = {}
    for name, words in runs.items():
        file = output / f"{name.replace(' ', '-')}.pt"
        call("distill", *taught, *words, "-o", file, *how)
        reports[name] = json.loads(file.with_suffix(".distill.json").read_text("utf-8"))
    call("eval", output / "alone.pt", sets["test"], "-o", output / "alone.json")
    return {
        "data": data.resolve().name,
        "epochs": epochs,
        "side": side,
        "seed": seed,
        "alone": json.loads((output / "alone.json").read_text("utf-8")),
        "taught": reports,
        "environment": asdict(describe_environment(argv=sys.argv, load_before=load)),
    }


def _links(table: Path, folder: Path) -> Path:
    """Return a folder with the images of a table, and no labels."""
    folder.mkdir(exist_ok=True)
    for i, line in enumerate(table.read_text("utf-8").splitlines()[1:]):
        path = table.parent / line.split(",")[0]
        link = folder / f"{i:06}{path.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(path.resolve(), folder.resolve()))
    return folder


def table_of_students(report: dict[str, Any]) -> list[str]:
    """Return the lines of a table: errors and coverage on the test images, and times."""
    one = report["taught"]["without labels"]
    alone = report["alone"]
    rows = [["", "test MAE", "|student - teacher|", "90 % hold", "ms", "GMACs"]]

    def speed(part: str) -> list[str]:
        return [f"{one[part]['latency_ms']:.2f}", f"{one[part]['gmacs']:.4f}"]

    rows.append(["teacher", f"{one['loss']['mae_teacher']:.3f}", "", "", *speed("teacher")])
    holds = {row["stated"]: row["coverage"] for row in alone["intervals"]}
    cover = f"{holds[0.9]:.1%}" if 0.9 in holds else "-"
    rows.append(["student alone", f"{alone['value']['mae']:.3f}", "", cover, *speed("student")])
    for name, found in report["taught"].items():
        loss, rows_of = found["loss"], found["intervals"]["rows"] or []
        holds = {row["stated"]: row["coverage"] for row in rows_of}
        cover = f"{holds[0.9]:.1%}" if 0.9 in holds else "-"
        difference = f"{loss['mean_difference']:.3f}"
        rows.append([name, f"{loss['mae_student']:.3f}", difference, cover, *speed("student")])
    return list(columns(rows, "<>>>>>"))


if __name__ == "__main__":
    main()
