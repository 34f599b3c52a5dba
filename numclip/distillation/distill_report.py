"""The report of a distillation: a file for programs, a table for people."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from numclip.checkpoint import Checkpoint, package_versions
from numclip.distillation.distill_options import DistillOptions
from numclip.distillation.judgement import Judgement
from numclip.distillation.lesson import Taught
from numclip.distillation.taught_data import TaughtData
from numclip.distillation.trade import Cost
from numclip_runtime import Task
from numclip_runtime.console import columns, json_text, plain, visible
from numclip_runtime.files import atomic_text, sha256
from numclip_runtime.system import cpu_name


def report_of(
    options: DistillOptions,
    teacher: Checkpoint,
    taught: Taught,
    data: TaughtData,
    costs: tuple[Cost, Cost],
    judgement: Judgement,
) -> dict[str, Any]:
    """Collect the report as plain data.

    Args:
        options: Names the files.
        teacher: Gives the task.
        taught: The student.
        data: Its images.
        costs: The teacher's, then the student's.
        judgement: What is lost.
    """
    before, after = costs
    known = int((~np.isnan([sample.label for sample in data.train])).sum())
    return {
        "task": teacher.task.to_dict(),
        "teacher": {"file": options.teacher.name, "sha256": sha256(options.teacher)}
        | asdict(before),
        "student": {"file": options.output.name, "started_from": Path(options.student).name}
        | asdict(after)
        | {"metrics": dict(taught.student.metrics)},
        "time": {
            "speedup": before.latency_ms / after.latency_ms,
            "how": "one image in PyTorch on the CPU, runs take turns, lower quartile",
            "threads": torch.get_num_threads(),
        },
        "images": {
            "train": len(data.train),
            "train_labelled": known,
            "held_out": len(data.val),
            "held_out_labelled": data.labelled,
            "test": len(data.test),
        },
        "loss": judgement.loss.to_dict(),
        "intervals": {
            "from": _source(taught, data),
            "calibration": taught.student.calibration and asdict(taught.student.calibration),
            "measured_on": judgement.measured_on,
            "rows": judgement.intervals,
            "line": taught.line,
        },
        "machine": f"{cpu_name()}, {os.cpu_count()} logical cores",
        "versions": package_versions("torch", "open_clip_torch"),
    }


def _source(taught: Taught, data: TaughtData) -> str:
    if taught.student.calibration is None:
        return "none"
    return "labels" if data.labelled else "the teacher's, and the difference to it"


def write_distill_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON; NaN and infinity, which JSON lacks, become null."""
    with atomic_text(path) as file:
        file.write(json_text(plain(report), indent=2) + "\n")


def table_of(report: dict[str, Any], task: Task) -> Iterator[str]:
    """Yield the lines for people.

    Args:
        report: Return value of `report_of`.
        task: Gives unit and digits.
    """
    teacher, student, loss = report["teacher"], report["student"], report["loss"]
    unit = f" {visible(task.unit)}" if task.unit else ""

    def number(value: float, *, sign: bool = False) -> str:
        return task.number(value, 3, sign=sign)

    rows = [["", "teacher", "student", ""]]
    for name, key, form in (
        ("M parameters", "parameters", lambda n: f"{n / 1e6:.3g}"),
        ("MB in float32", "megabytes", "{:.3g}".format),
        ("GMACs", "gmacs", "{:.3g}".format),
        ("ms an image", "latency_ms", "{:.3g}".format),
    ):
        share = student[key] / teacher[key]
        rows.append([name, form(teacher[key]), form(student[key]), f"{share:.0%}"])
    if loss["mae_teacher"] is not None:
        both = (loss["mae_teacher"], loss["mae_student"])
        rows.append(
            [f"MAE,{unit or ' label units'}", *map(number, both), number(loss["lost"], sign=True)]
        )
    yield from columns(rows, "<>>>")
    yield (
        f"{loss['images']} {loss['measured_on']} images: student and teacher differ by "
        f"{number(loss['mean_difference'])}{unit} in the mean, 95 % by at most "
        f"{number(loss['p95_difference'])}; {number(loss['lost'], sign=True)} of "
        f"{number(loss['limit'])} allowed ({loss['limit_from']})"
    )
    yield report["intervals"]["line"]
    for row in report["intervals"]["rows"] or ():
        holds = "are as wide as the bound needs for" if "teachers_level" in row else "hold"
        yield (
            f"  {row['stated']:.0%} intervals {holds} {row['coverage']:.1%} of the "
            f"{report['intervals']['measured_on']}, mean width "
            f"{task.number(row['mean_width'], 2)}{unit}"
        )
    yield f"{student['file']}: {report['time']['speedup']:.2f} times as fast"
