"""A labelled image, and the check of its label against a task."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from numclip.data.numbers import MAX_ANNOTATIONS, grouped, is_like_number, number
from numclip.data.tar_index import TarMember
from numclip_runtime import Task, UsageError
from numclip_runtime.fields import shown
from numclip_runtime.files import atomic_text
from numclip_runtime.task import as_written

ImageFile: TypeAlias = Path | TarMember
_RANGE = re.compile(r"[(\[]?\s*\d[\d.,]*\s*(?:-|\u2013|,|to|bis)\s*\d[\d.,]*\s*[)\]]?")
_NUMBER_AND_WORD = re.compile(r"[^\d\s]{0,9} ?[-+]?\d[\d.,]*|[-+]?\d[\d.,]* ?[^\d\s]{1,20}")


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    path: Path  # image file; one in a tar has the path below it: shards/a.tar/0001.jpg
    label: float  # label units, as in the file; the median of several annotations
    annotations: tuple[float, ...] = ()  # several annotators' labels, in file order; else empty
    group: str = ""  # such as a person, whom training and validation must not share; "": unknown
    member: TarMember | None = None  # of an image in a tar: where it lies there

    @property
    def image(self) -> ImageFile:
        """What the runtime's readers open."""
        return self.path if self.member is None else self.member

    @property
    def file(self) -> Path:
        """The file on the disk: the image, or its tar."""
        return self.path if self.member is None else self.member.archive


def sample_of(
    image: ImageFile,
    labels: Sequence[object],
    task: Task,
    where: str,
    *,
    group: str = "",
    decimal_comma: bool = False,
    span: tuple[float, float] | None = None,
) -> Sample:
    """Validate the labels of one image.

    Args:
        image: Image file, or member of a tar.
        labels: One label, or one per annotator, as texts or numbers.
        task: Labels outside its bin_edges are refused.
        where: File and line named in errors.
        group: See `Sample`.
        decimal_comma: See `number`.
        span: Lowest and highest label of the whole list, for the way out in an error; None: not
            known.

    Raises:
        UsageError: if a label is not a number, or outside the task.
    """
    if not labels:
        raise UsageError(f"{where}: the label is empty.")
    if len(labels) > MAX_ANNOTATIONS:
        raise UsageError(f"{where}: has {len(labels):,} labels, at most {MAX_ANNOTATIONS}.")
    texts = [label for label in labels if isinstance(label, str)]
    if (whole := grouped(texts)) is not None and task.contains(whole):
        raise UsageError(
            f"{where}: the label {shown(' '.join(texts))} may be {whole:g}, or the labels of "
            f"{len(texts)} annotators; write {whole:g}, or annotators as {_with_point(texts)}."
        )
    numbers = tuple(number(label, decimal_comma=decimal_comma) for label in labels)
    if None in numbers:
        raise UsageError(f"{where}: {_no_number(labels, numbers.index(None))}.")
    known = tuple(_checked(label, task, where, span) for label in numbers if label is not None)
    member = image if isinstance(image, TarMember) else None
    path = image.path if isinstance(image, TarMember) else image
    return Sample(path, median(known), known if len(known) > 1 else (), group, member)


def _with_point(texts: Sequence[str]) -> str:
    return " ".join(text if "." in text else f"{text}.0" for text in texts)


def median(annotations: Sequence[float]) -> float:
    """Return element n // 2 of n sorted annotations, which is one of them.

    The released code takes that element of the unsorted line, which is the median only where the
    file is sorted. Of an even number it is the upper of the two in the middle.
    """
    return sorted(annotations)[len(annotations) // 2]


def _no_number(labels: Sequence[object], index: int) -> str:
    """Return why a label is no number, and the way out."""
    wrong, hint = labels[index], ""
    whole = " ".join(label for label in labels if isinstance(label, str))
    if isinstance(wrong, str) and is_like_number(wrong):
        hint = "; write it without grouping of digits, and with a point before decimals"
    elif isinstance(wrong, str) and _RANGE.fullmatch(whole):
        wrong, hint = whole, ", but a range; write one number, such as its middle"
    elif isinstance(wrong, str) and _NUMBER_AND_WORD.fullmatch(whole):
        wrong, hint = whole, "; write the number alone, in the task's unit"
    return f"the label {shown(wrong)} is not a number{hint}"


def _checked(
    label: float, task: Task, where: str, span: tuple[float, float] | None = None
) -> float:
    low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
    if not task.contains(label):
        classes = task.labels_are_classes
        raise UsageError(
            f"{where}: the label {as_written(label)} is outside the task's "
            f"{'classes' if classes else 'range'} {as_written(low)} to "
            f"{as_written(high - classes)}; "
            f"{_other_count(task, span) if classes else 'correct it, '}"
            f"or widen bin_edges of task {task.name!r}."
        )
    if task.prediction == "class" and task.labels_are_classes and not (label - low).is_integer():
        raise UsageError(
            f"{where}: the label {as_written(label)} is between the classes of task {task.name!r}; "
            "correct it, or predict numbers between them with --prediction expected."
        )
    return label


def _other_count(task: Task, span: tuple[float, float] | None) -> str:
    """Return the way out for a list that may count the same classes from 0, or from 1."""
    first = task.bin_edges[0] + task.label_offset
    if first not in (0, 1):
        return "correct it, "
    option = f"--label-offset {as_written(task.label_offset + (1 if first == 0 else -1))}"
    low, high = 1 - int(first), task.num_bins - int(first)
    if span is None or low <= span[0] <= span[1] <= high:
        return f"correct it, give {option} for a list of {low} to {high}, "
    return (
        f"the list goes from {as_written(span[0])} to {as_written(span[1])}, which fits neither "
        f"these nor {low} to {high} ({option}); correct it, "
    )


def span_of(labels: Iterable[object], *, decimal_comma: bool = False) -> tuple[float, float] | None:
    """Return the lowest and highest of the labels of a list that are numbers; None: there are none.

    For `decimal_comma`, see `number`.
    """
    numbers = [number(label, decimal_comma=decimal_comma) for label in labels]
    known = [label for label in numbers if label is not None]
    return (min(known), max(known)) if known else None


def write_csv(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a CSV file for `read_samples`; its paths are absolute."""
    with atomic_text(path) as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "group"))
        for sample in samples:
            labels = " ".join(repr(label) for label in sample.annotations or (sample.label,))
            rows.writerow((sample.path.resolve(), labels, sample.group))
