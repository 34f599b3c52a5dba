"""Where labelled images come from: a table, a list of the papers, or a folder per bin."""

from __future__ import annotations

from pathlib import Path

from numclip.data.folders import read_folder
from numclip.data.lists import read_list
from numclip.data.readers import read_csv, read_parquet
from numclip.data.samples import Sample
from numclip_runtime import Task, UsageError

KINDS = "a CSV file (.csv), a text list (.txt), a Parquet file (.parquet) or a folder per bin"


def read_samples(
    source: Path, task: Task, root: Path | None = None, *, group_column: str | None = None
) -> list[Sample]:
    """Read labelled images from a file or folder, by what it is.

    Args:
        source: See `read_csv`, `read_list`, `read_parquet` and `read_folder`.
        task: Labels that are not of this task are refused.
        root: Folder that relative image paths start from; None: the file's own folder. A source
            that is a folder holds its images itself.
        group_column: Column of `Sample.group`, for CSV and Parquet.

    Raises:
        UsageError: naming file and line, if a column, a number or an image file is missing.
        MissingDependencyError: if the source is a Parquet file, and pyarrow is not installed.
    """
    suffix = source.suffix.lower()
    if group_column and (source.is_dir() or suffix == ".txt"):
        raise UsageError(f"{source}: --group-column needs a CSV or Parquet file with that column.")
    if source.is_dir():
        return read_folder(source, task)
    if suffix == ".csv":
        return read_csv(source, task, root=root, group_column=group_column)
    if suffix == ".txt":
        return read_list(source, task, root=root)
    if suffix in (".parquet", ".pq"):
        return read_parquet(source, task, root=root, group_column=group_column)
    reason = "not a known kind of data" if source.exists() else "no such file or folder"
    raise UsageError(f"{source}: {reason}; give {KINDS}.")
