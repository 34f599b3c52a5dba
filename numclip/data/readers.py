"""Read labelled images: from CSV and Parquet tables, text lists, or a folder per bin."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from numclip.data.image_paths import absence, image_path
from numclip.data.numbers import number, numbers_in
from numclip.data.parquet import read_parquet
from numclip.data.samples import Sample, sample_of
from numclip.data.tables import read_csv, read_list
from numclip_runtime import Task, UsageError
from numclip_runtime.images.folder import (
    LeftOut,
    find_images,
    is_image_name,
    is_rubbish,
    say_left_out,
)

KINDS = "a CSV file (.csv), a text list (.txt), a Parquet file (.parquet) or a folder per bin"


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
    needed = ["path", "label", *([group_column] if group_column else [])]
    if suffix == ".csv":
        rows = read_csv(source, needed)
    elif suffix == ".txt":
        rows = read_list(source)
    elif suffix in (".parquet", ".pq"):
        rows = read_parquet(source, needed)
    else:
        reason = "not a known kind of data" if source.exists() else "no such file or folder"
        raise UsageError(f"{source}: {reason}; give {KINDS}.")
    base = source.parent if root is None else root
    samples, absent = [], []
    for where, cells in rows:
        path, label = cells["path"], cells["label"]
        if not isinstance(path, str) or not path.strip():
            raise UsageError(f"{where}: the path is empty.")
        group = "" if group_column is None else _group(cells[group_column])
        if group_column is not None and not group:
            raise UsageError(f"{where}: the column {group_column!r} of --group-column is empty.")
        labels = numbers_in(label) if isinstance(label, str) else label
        labels = labels if isinstance(labels, list) else [labels]
        found = image_path(base, path)
        if found is None:
            absent.append(path)
        samples.append(sample_of(found or base / path, labels, task, where, group=group))
    if not samples:
        raise UsageError(f"{source}: holds no images.")
    if absent:
        raise UsageError(absence(source, absent, len(samples)))
    return samples


def _group(value: object) -> str:
    """Return a group as text: the same from every kind of file, system and keyboard."""
    if value is None or value != value:  # NaN, an empty cell of pandas
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers with an empty cell among
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


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
