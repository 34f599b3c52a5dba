"""Read labelled images: from CSV and Parquet tables, text lists, or a folder per bin."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numclip.data.samples import Sample, existing, number, sample_of
from numclip_runtime import Task, UsageError
from numclip_runtime.errors import require
from numclip_runtime.images.folder import (
    LeftOut,
    find_images,
    is_image_name,
    is_rubbish,
    say_left_out,
)

KINDS = "a CSV file (.csv), a text list (.txt), a Parquet file (.parquet) or a folder per bin"
# The labels are the numbers that a line ends in, so a path may hold spaces.
_LINE = re.compile(r"(?P<path>\S.*?)(?P<labels>(?:\s+[-+]?[\d.]+(?:[eE][-+]?\d+)?)+)")


class _Row(NamedTuple):
    """One image of a table or list, not yet checked."""

    where: str  # file and line, for errors
    path: Any  # as in the file
    labels: Sequence[object]  # one per annotator
    group: Any = ""


def read_samples(
    source: Path,
    task: Task,
    root: Path | None = None,
    *,
    group_column: str | None = None,
    left_out: LeftOut | None = None,
) -> list[Sample]:
    """Read labelled images from a file or folder.

    Args:
        source: CSV (.csv) or Parquet (.parquet, .pq) file with the columns `path` and `label`, text
            list (.txt), or folder, see `read_folder`. Images may have labels of several annotators:
            numbers separated by spaces, or a list in Parquet.
        task: Labels that are not of this task are refused.
        root: Folder that relative image paths start from; None: the file's own folder. A source
            that is a folder holds its images itself.
        group_column: Column of `Sample.group`, for CSV and Parquet.
        left_out: Counts the pictures of other kinds in a folder. None: they are said on stderr.

    Raises:
        UsageError: naming file and line, if a column, a number or an image file is missing.
        MissingDependencyError: if the source is a Parquet file, and pyarrow is not installed.
    """
    suffix = source.suffix.lower()
    if group_column and (source.is_dir() or suffix == ".txt"):
        raise UsageError(f"{source}: --group-column needs a CSV or Parquet file with that column.")
    if source.is_dir():
        return read_folder(source, task, left_out)
    if suffix == ".csv":
        rows = _csv_rows(source, group_column)
    elif suffix == ".txt":
        rows = _list_rows(source)
    elif suffix in (".parquet", ".pq"):
        rows = _parquet_rows(source, group_column)
    else:
        reason = "not a known kind of data" if source.exists() else "no such file or folder"
        raise UsageError(f"{source}: {reason}; give {KINDS}.")
    base = source.parent if root is None else root
    samples = []
    for where, path, labels, group in rows:
        if not isinstance(path, str) or not path:
            raise UsageError(f"{where}: the path is empty.")
        if group in (None, "") and group_column is not None:
            raise UsageError(f"{where}: the column {group_column!r} of --group-column is empty.")
        samples.append(sample_of(base / path, labels, task, where, group=str(group)))
    return existing(samples, source)


def _csv_rows(path: Path, group_column: str | None) -> Iterator[_Row]:
    """Yield the rows of a UTF-8 file with a header line; other columns are ignored."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            _columns(path, rows.fieldnames or (), group_column)
            for row in rows:
                labels = (row["label"] or "").split()
                group = row[group_column] if group_column else ""
                yield _Row(f"{path} line {rows.line_num}", row["path"], labels, group)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot read this CSV file ({error}).") from None


def _parquet_rows(path: Path, group_column: str | None) -> Iterator[_Row]:
    """Yield the rows of a file whose labels are numbers or lists; other columns are not read."""
    require("parquet", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            needed = _columns(path, file.schema_arrow.names, group_column)
            rows = file.read(columns=needed).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: cannot read this Parquet file ({error}).") from None
    for index, row in enumerate(rows, 1):
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        group = row[group_column] if group_column else ""
        yield _Row(f"{path} row {index}", row["path"], labels, group)


def _columns(path: Path, found: Sequence[str], group_column: str | None) -> list[str]:
    """Return the columns to read.

    Raises:
        UsageError: if one of them is missing.
    """
    needed = ["path", "label", *([group_column] if group_column else [])]
    if missing := sorted(set(needed) - set(found)):
        raise UsageError(
            f"{path}: lacks the column(s) {missing}; it must name 'path' and 'label', and the one "
            f"of --group-column where that is given (found {list(found)})."
        )
    return needed


def _list_rows(path: Path) -> Iterator[_Row]:
    """Yield the lines `relative/path label [label ...]` of a UTF-8 file, except empty ones."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read this list ({error}).") from None
    for index, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {index}"
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{where}: expected 'path label [label ...]', got {line[:80]!r}.")
        yield _Row(where, match["path"], match["labels"].split())


def read_folder(folder: Path, task: Task, left_out: LeftOut | None = None) -> list[Sample]:
    """Read a folder whose subfolders are named by a number or by the phrase of a bin.

    A number ("34") is the label of the images inside. A phrase ("young adult", "Young_Adult")
    names only the bin; the label is then its number in `Task.bin_values`: the class where labels
    are classes, else the bin's centre, off by half a bin at most.

    Args:
        folder: Folder; images may lie at any depth in its subfolders. Those that
            are hidden, or a system's own, are ignored, as in prediction.
        task: Gives the phrases; labels that are not of this task are refused.
        left_out: Counts the pictures of other kinds. None: they are said on stderr.

    Raises:
        UsageError: if a subfolder is named otherwise, or an image lies beside the subfolders.
    """
    entries = sorted(entry for entry in folder.iterdir() if not is_rubbish(entry.name))
    for entry in entries:
        if entry.is_file() and is_image_name(entry.name):
            raise UsageError(
                f"{entry}: lies beside the folders of the bins; move it into the one it belongs "
                "to, or give a CSV file with the columns 'path' and 'label'."
            )
    samples, others = [], LeftOut() if left_out is None else left_out
    for subfolder in filter(Path.is_dir, entries):
        label = _folder_label(subfolder, task)
        # an empty folder is a bin without images; the report names it
        if not all(is_rubbish(entry.name) for entry in subfolder.iterdir()):
            paths = find_images([str(subfolder)], left_out=others)
            samples += [sample_of(Path(path), [label], task, str(subfolder)) for path in paths]
    if not samples:
        raise UsageError(f"{folder}: holds no images; {_expected(task)}.")
    if left_out is None:
        say_left_out(others)
    return samples


def _folder_label(subfolder: Path, task: Task) -> float:
    given = number(subfolder.name)
    phrases = [_simple(phrase) for phrase in task.phrases]
    named = phrases.index(_simple(subfolder.name)) if _simple(subfolder.name) in phrases else None
    if named is None and given is None:
        raise UsageError(
            f"{subfolder}: neither a number nor a phrase of the task; {_expected(task)}."
        )
    if named is None:
        assert given is not None
        return given
    if given is not None and task.bin_of(given) != named:
        raise UsageError(
            f"{subfolder}: is a number of bin {task.phrases[task.bin_of(given)]!r} and the phrase "
            f"of another; give a CSV file with the columns 'path' and 'label'."
        )
    return task.bin_values[named] + task.label_offset if given is None else given


def _simple(text: str) -> str:
    """Return a phrase without regard to case, "_" and "-", which differ in names of folders."""
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())


def _expected(task: Task) -> str:
    names = ", ".join(repr(phrase) for phrase in task.phrases)
    return f"name the subfolders by labels, or by the phrases of task {task.name!r}: {names}"
