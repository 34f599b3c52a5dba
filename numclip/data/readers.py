"""Labelled images from tables: CSV and Parquet files with the columns `path` and `label`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numclip.data.samples import Sample, existing, sample_of
from numclip_runtime import Task, UsageError
from numclip_runtime.errors import require


def read_csv(
    path: Path, task: Task, *, root: Path | None = None, group_column: str | None = None
) -> list[Sample]:
    """Read a CSV file with the columns `path` and `label`.

    Args:
        path: CSV file, UTF-8, with a header line; other columns are ignored. Labels of several
            annotators are separated by spaces.
        task: Labels that are not of this task are refused.
        root: Folder that relative image paths start from; None: the CSV file's own folder.
        group_column: Column of `Sample.group`.

    Raises:
        UsageError: naming file and line, if a column, a number or an image file is missing.
    """
    base = path.parent if root is None else root
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            _require_columns(path, rows.fieldnames or (), group_column)
            samples = [
                _sample(
                    row,
                    (row["label"] or "").split(),
                    base,
                    task,
                    f"{path} line {rows.line_num}",
                    group_column,
                )
                for row in rows
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot read this CSV file ({error}).") from None
    return existing(samples, path)


def read_parquet(
    path: Path, task: Task, *, root: Path | None = None, group_column: str | None = None
) -> list[Sample]:
    """Read a Parquet file with the columns `path` (text) and `label` (a number, or a list of them).

    Args:
        path: Parquet file; other columns are not read.
        task: Labels that are not of this task are refused.
        root: Folder that relative image paths start from; None: the file's own folder.
        group_column: Column of `Sample.group`.

    Raises:
        UsageError: naming file and row, if a column, a number or an image file is missing.
        MissingDependencyError: if pyarrow is not installed.
    """
    require("parquet", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_columns(path, file.schema_arrow.names, group_column)
            columns = ["path", "label", *([group_column] if group_column else [])]
            rows = file.read(columns=columns).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: cannot read this Parquet file ({error}).") from None
    base = path.parent if root is None else root
    samples = []
    for index, row in enumerate(rows, 1):
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        samples.append(_sample(row, labels, base, task, f"{path} row {index}", group_column))
    return existing(samples, path)


def _require_columns(path: Path, found: Sequence[str], group_column: str | None) -> None:
    needed = ["path", "label", *([group_column] if group_column else [])]
    if missing := sorted(set(needed) - set(found)):
        raise UsageError(
            f"{path}: lacks the column(s) {missing}; it must name 'path' and 'label', and the one "
            f"of --group-column where that is given (found {list(found)})."
        )


def _sample(
    row: Mapping[str, Any],
    labels: Sequence[object],
    base: Path,
    task: Task,
    where: str,
    group_column: str | None,
) -> Sample:
    if not isinstance(row["path"], str) or not row["path"]:
        raise UsageError(f"{where}: the path is empty.")
    group = "" if group_column is None else row[group_column]
    if group_column is not None and group in (None, ""):
        raise UsageError(f"{where}: the column {group_column!r} of --group-column is empty.")
    return sample_of(base / row["path"], labels, task, where, group=str(group))
