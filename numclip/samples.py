"""Labelled images from CSV files; no torch here: exported models are judged without it."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime import Task, UsageError


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    path: Path  # where the image lies
    label: float  # label units, as in the file


def read_csv(path: Path, task: Task, *, root: Path | None = None) -> list[Sample]:
    """Read a CSV file with the columns `path` and `label`.

    Args:
        path: CSV file, UTF-8, with a header line; other columns are ignored.
        task: Labels outside its bin_edges are refused.
        root: Folder that relative image paths start from; None: the CSV file's own folder.

    Raises:
        UsageError: naming file and line, if a column, a number or an image file is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := {"path", "label"} - set(rows.fieldnames or ()):
                raise UsageError(
                    f"{path}: lacks the column(s) {sorted(missing)}; its first line must name "
                    f"'path' and 'label' (found {list(rows.fieldnames or ())})."
                )
            base = path.parent if root is None else root
            samples = [_sample(row, base, task, f"{path} line {rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot read this CSV file ({error}).") from None
    if not samples:
        raise UsageError(f"{path}: holds no images, only a header.")
    absent = [sample.path for sample in samples if not sample.path.is_file()]
    if absent:
        raise UsageError(
            f"{path}: {len(absent)} of {len(samples)} images do not exist, first {absent[0]}; "
            "paths are relative to the CSV file's folder, or to --root."
        )
    return samples


def _sample(row: Mapping[str, str | None], base: Path, task: Task, where: str) -> Sample:
    if not row["path"]:
        raise UsageError(f"{where}: the path is empty.")
    return Sample(base / row["path"], _label(row["label"], task, where))


def _label(text: str | None, task: Task, where: str) -> float:
    try:
        label = float(text or "")
    except ValueError:
        label = math.nan
    if math.isnan(label):
        raise UsageError(f"{where}: the label {text!r} is not a number.")
    if not task.contains(label):
        low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
        raise UsageError(
            f"{where}: the label {label:g} is outside the task's range {low:g} to {high:g}; "
            f"correct it, or widen bin_edges of task {task.name!r}."
        )
    return label


def describe(samples: Sequence[Sample], task: Task) -> str:
    """Return one line of class balance: number of samples in each bin."""
    counts = Counter(task.bin_of(sample.label) for sample in samples)
    return ", ".join(f"{phrase} {counts[k]}" for k, phrase in enumerate(task.phrases))
