"""A labelled image, and the check of its label against a task."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime import Task, UsageError
from numclip_runtime.files import atomic_text
from numclip_runtime.task import as_written


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    path: Path  # image file
    label: float  # label units, as in the file; the median of several annotations
    annotations: tuple[float, ...] = ()  # several annotators' labels, in file order; else empty
    group: str = ""  # such as a person, whom training and validation must not share; "": unknown


def sample_of(
    path: Path, labels: Sequence[object], task: Task, where: str, *, group: str = ""
) -> Sample:
    """Validate the labels of one image.

    Args:
        path: Image file.
        labels: One label, or one per annotator, as texts or numbers.
        task: Labels outside its bin_edges are refused.
        where: File and line named in errors.
        group: See `Sample`.

    Raises:
        UsageError: if a label is not a number, or outside the task.
    """
    if not labels:
        raise UsageError(f"{where}: the label is empty.")
    numbers = tuple(_label(label, task, where) for label in labels)
    return Sample(path, median(numbers), numbers if len(numbers) > 1 else (), group)


def median(annotations: Sequence[float]) -> float:
    """Return element n // 2 of n sorted annotations, which is one of them.

    The released code takes that element of the unsorted line, which is the median only where the
    file is sorted. Of an even number it is the upper of the two in the middle.
    """
    return sorted(annotations)[len(annotations) // 2]


def number(text: object) -> float | None:
    """Return a finite number from a number or its text ("3", "3.0", "3e2"), else None."""
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        return None
    try:
        value = math.nan if isinstance(text, str) and "_" in text else float(text)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _label(text: object, task: Task, where: str) -> float:
    label = number(text)
    if label is None:
        raise UsageError(f"{where}: the label {text!r} is not a number.")
    low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
    if not task.contains(label):
        classes = task.labels_are_classes
        raise UsageError(
            f"{where}: the label {as_written(label)} is outside the task's "
            f"{'classes' if classes else 'range'} {as_written(low)} to "
            f"{as_written(high - classes)}; "
            f"correct it, or widen bin_edges of task {task.name!r}."
        )
    if task.prediction == "class" and task.labels_are_classes and not (label - low).is_integer():
        raise UsageError(
            f"{where}: the label {as_written(label)} is between the classes of task {task.name!r}; "
            "correct it, or predict numbers between them with --prediction expected."
        )
    return label


def write_csv(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a CSV file for `read_samples`; its paths are absolute."""
    with atomic_text(path) as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "group"))
        for sample in samples:
            labels = " ".join(repr(label) for label in sample.annotations or (sample.label,))
            rows.writerow((sample.path.resolve(), labels, sample.group))


def existing(samples: list[Sample], source: Path) -> list[Sample]:
    """Return the samples if there are any and their files exist.

    Raises:
        UsageError: naming how many files are missing, and the first.
    """
    if not samples:
        raise UsageError(f"{source}: holds no images.")
    if absent := [sample.path for sample in samples if not sample.path.is_file()]:
        raise UsageError(
            f"{source}: {len(absent)} of {len(samples)} images do not exist, first {absent[0]}; "
            "paths are relative to this file's folder, or to --root."
        )
    return samples
