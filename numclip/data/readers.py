"""Read labelled images: from CSV and Parquet tables, text lists, tars, or a folder per bin."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from numclip.data.columns import (
    COLUMN_OPTIONS,
    PATH_COLUMNS,
    PLAIN_TABLE,
    Alternative,
    TableOptions,
    simple_name,
)
from numclip.data.image_paths import absence, below_root, image_path
from numclip.data.labels import LabelWords, is_missing, simple_phrase
from numclip.data.numbers import commas_are_decimal, number
from numclip.data.parquet import read_parquet
from numclip.data.samples import ImageFile, Sample, sample_of, span_of
from numclip.data.tables import Row, read_csv, read_list
from numclip.data.tar_index import TarIndex, TarMember
from numclip.data.tar_samples import read_tar, tars_of
from numclip_runtime import Task, UsageError
from numclip_runtime.console import say, visible
from numclip_runtime.fields import shown
from numclip_runtime.images.folder import (
    LeftOut,
    find_images,
    is_image_name,
    is_rubbish,
    say_left_out,
)

KINDS = (
    "a CSV file (.csv), a text list (.txt), a Parquet file (.parquet), tars (.tar, 'shards/*.tar') "
    "or a folder per bin"
)


@dataclass(frozen=True)
class _Labelled:
    """A row of a table that has a label."""

    where: str  # for errors
    image: str | TarMember  # text of the path, or a member
    labels: list[object]  # of the annotators
    group: str


def read_samples(
    source: Path,
    task: Task,
    root: Path | None = None,
    *,
    group_column: str | None = None,
    table: TableOptions = PLAIN_TABLE,
    left_out: LeftOut | None = None,
    notes: list[str] | None = None,
) -> list[Sample]:
    """Read labelled images from a file or folder.

    Args:
        source: CSV (.csv, .tsv) or Parquet (.parquet, .pq) file with the columns `path` and
            `label`, text list (.txt), tar or pattern of tars ("shards/*.tar", see `read_tar`), or
            folder, see `read_folder`. Images may have labels of several annotators: numbers
            separated by spaces, or a list in Parquet and JSON.
        task: Labels that are not of this task are refused.
        root: Folder that relative image paths start from; None: the file's own folder. Paths from
            the top of another machine's disk are looked for below it. A folder or a tar holds its
            images itself.
        group_column: Column of `Sample.group`, for CSV, Parquet and tars.
        table: Names of the other columns, and what a row without label is.
        left_out: Counts the pictures of other kinds in a folder. None: they are said on stderr.
        notes: Gets how a table was read, where it is unlike a plain one. None: on stderr.

    Raises:
        UsageError: naming file and line, if a column, a number or an image file is missing.
        MissingDependencyError: if the source is a Parquet file, and pyarrow is not installed.
    """
    suffix, folder = source.suffix.lower(), source.is_dir()
    given = {"path": table.path_column, "label": table.label_column, "group": group_column}
    for name, column in given.items():
        if column and (folder or suffix == ".txt" or (name == "path" and suffix == ".tar")):
            raise UsageError(
                f"{visible(source)}: {COLUMN_OPTIONS[name]} needs a CSV or Parquet file with that "
                "column."
            )
    if folder:
        return read_folder(source, task, left_out)
    names = {name: column or name for name, column in given.items() if column or name != "group"}
    same = {"path": PATH_COLUMNS, "label": ("labels", simple_name(task.name)), "group": ()}
    instead = {
        names[name]: Alternative(COLUMN_OPTIONS[name], () if given[name] else same[name])
        for name in names
    }
    remarks: list[str] = []
    needed = list(names.values())
    rows: Iterator[Row]
    if suffix in (".csv", ".tsv"):
        rows = read_csv(source, needed, instead=instead, notes=remarks)
    elif suffix == ".txt":
        rows = read_list(source)
    elif suffix in (".parquet", ".pq"):
        rows = read_parquet(source, needed, instead=instead, notes=remarks)
    elif suffix == ".tar":
        sure = not table.skip_unlabelled
        rows = chain.from_iterable(
            read_tar(tar, names, instead, sure=sure, notes=remarks) for tar in tars_of(source)
        )
    else:
        raise UsageError(f"{source}: {_unknown(source)}.")
    labelled = list(_labelled(rows, names, task, table, remarks))
    if not labelled:
        raise UsageError(f"{source}: holds no images{' with a label' * bool(remarks)}.")
    texts = (label for row in labelled for label in row.labels if isinstance(label, str))
    decimal, rule = commas_are_decimal(texts)
    if decimal and remarks and remarks[0].startswith("read as"):
        remarks.insert(1, "decimal commas")
    elif decimal:
        remarks.insert(0, "read with decimal commas")
    images = _images(source, root, labelled, remarks)
    if remarks:
        line = f"{visible(source)}: {', '.join(dict.fromkeys(remarks))}."
        say(f"Note: {line}") if notes is None else notes.append(line)
    of_all = (label for row in labelled for label in row.labels)
    span = span_of(of_all, decimal_comma=rule) if task.labels_are_classes else None
    return [
        sample_of(
            image, row.labels, task, row.where, group=row.group, decimal_comma=rule, span=span
        )
        for row, image in zip(labelled, images, strict=True)
    ]


def _unknown(source: Path) -> str:
    """Return why a source is not read, and the way out."""
    if not source.exists():
        return f"no such file or folder; give {KINDS}"
    if re.search(r"\.tar\.\w+$|\.t[gbx]z2?$", source.name.lower()):
        return "is compressed; unpack it to a plain .tar, whose images are read at their places"
    return f"not a known kind of data; give {KINDS}"


def _labelled(
    rows: Iterator[Row],
    names: dict[str, str],
    task: Task,
    table: TableOptions,
    remarks: list[str],
) -> Iterator[_Labelled]:
    """Yield the rows with a label; the others are refused, or left out and counted."""
    words, labelled, unlabelled = LabelWords.of(task), 0, 0
    for where, cells in rows:
        path, label = cells[names["path"]], cells[names["label"]]
        if not isinstance(path, TarMember) and (not isinstance(path, str) or not path.strip()):
            raise UsageError(f"{where}: the path is empty.")
        if is_missing(label):
            if not table.skip_unlabelled:
                empty = label == [] or (isinstance(label, str) and not label.strip())
                what = "is empty" if empty else f"{shown(label)} is not a number"
                raise UsageError(
                    f"{where}: the label {what}; leave such images out with --skip-unlabelled."
                )
            unlabelled += 1
            continue
        group = _group(cells[names["group"]]) if "group" in names else ""
        if "group" in names and not group:
            column = names["group"]
            raise UsageError(f"{where}: the column {column!r} of --group-column is empty.")
        labelled += 1
        yield _Labelled(where, path, words.labels_in(label), group)
    if unlabelled:
        remarks.append(
            f"{unlabelled:,} of {labelled + unlabelled:,} images have no label, left out"
        )


def _images(
    source: Path, root: Path | None, labelled: list[_Labelled], remarks: list[str]
) -> list[ImageFile]:
    """Return the image of each row.

    Raises:
        UsageError: if one does not exist.
    """
    base, indices = source.parent if root is None else root, dict[Path, TarIndex]()
    images = [
        image_path(base, row.image, indices) if isinstance(row.image, str) else row.image
        for row in labelled
    ]
    lost = [i for i, image in enumerate(images) if image is None]
    absent = [str(labelled[i].image) for i in lost]
    if absent and root is not None and (elsewhere := below_root(root, absent, indices)):
        remarks.append(f"paths read below {visible(root)} in place of {visible(elsewhere[0])}")
        for i, found in zip(lost, elsewhere[1], strict=True):
            images[i] = found
    elif absent:
        raise UsageError(absence(source, base, absent, len(labelled)))
    return [image for image in images if image is not None]


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
    are classes, else the middle of the bin, off by half a bin at most.

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
        if any(entry.suffix.lower() == ".tar" for entry in entries):
            raise UsageError(f"{folder}: holds tars; give them as '{folder / '*.tar'}'.")
        raise UsageError(f"{folder}: holds no images; {_expected(task)}.")
    if left_out is None:
        say_left_out(others)
    return samples


def _folder_label(subfolder: Path, task: Task) -> float:
    given = number(subfolder.name)
    name, phrases = simple_phrase(subfolder.name), [*map(simple_phrase, task.phrases)]
    named = phrases.index(name) if name in phrases else None
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


def _expected(task: Task) -> str:
    names = ", ".join(repr(phrase) for phrase in task.phrases)
    return f"name the subfolders by labels, or by the phrases of task {task.name!r}: {names}"
