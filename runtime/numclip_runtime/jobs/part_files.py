"""The files of an output folder: which pictures have a record in them, and leaving some out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path, open_text
from numclip_runtime.results.columns import import_pyarrow, utf8
from numclip_runtime.results.records import CSV_COLUMNS, PartFormat, csv_rows

_LONGEST_CELL = 1 << 26  # characters; a path has 4,096, and 101 bins have 5,000


class RecordMark(NamedTuple):
    """A record in short."""

    key: str  # see `key_of`
    failed: bool


def key_of(path: str, frame: int | None) -> str:
    """Return what tells a picture from all others, in the text that every format keeps.

    Args:
        path: As in the record.
        frame: Index in the video; None: an image.
    """
    return utf8(path) if frame is None else f"{utf8(path)}\0{frame}"


def part_path(folder: Path, number: int, kind: PartFormat) -> Path:
    """Return the place of a part."""
    return folder / f"part-{number:06d}.{kind}"


def parts_in(folder: Path, kind: PartFormat) -> list[tuple[int, Path]]:
    """Return number and path of each part in a folder, in the order in which they were written."""
    name = re.compile(rf"part-(\d{{6,}})\.{kind}")
    found = ((name.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def remove_leftovers(folder: Path, kind: PartFormat) -> None:
    """Delete the unfinished parts of runs that were killed; nobody else may write there."""
    for path in folder.glob(f".part-*.part.{kind}"):
        with suppress(OSError):
            path.unlink()


def marks_of(part: Path) -> Iterator[RecordMark]:
    """Yield a mark for each record of a part, without holding them all.

    Raises:
        UsageError: if it cannot be read, or is damaged.
    """
    with _readable(part):
        if part.suffix == ".parquet":
            yield from _parquet_marks(part)
            return
        with part.open(encoding="utf-8", newline="") as file:
            yield from (mark for mark, _ in _text_rows(part, file))


def leave_out(part: Path, keys: Set[str]) -> None:
    """Write a part again without the failed records of some pictures; delete it if none are left.

    Raises:
        UsageError: if it cannot be read or written.
        OSError: if the disk is full or fails; the part is then as it was.
    """

    def stays(mark: RecordMark) -> bool:
        return not (mark.failed and mark.key in keys)

    with _readable(part):
        if part.suffix == ".parquet":
            parquet = import_pyarrow().parquet
            mask = [stays(mark) for mark in _parquet_marks(part)]
            if any(mask):
                table = parquet.read_table(part)
                with atomic_path(part, sync=True) as temporary:
                    parquet.write_table(table.filter(mask), temporary)
        else:
            mask = [stays(mark) for mark in marks_of(part)]
            if any(mask):
                _copy_rows(part, mask)
        if not any(mask):
            part.unlink()


def _copy_rows(part: Path, mask: list[bool]) -> None:
    with (
        part.open(encoding="utf-8", newline="") as file,
        atomic_path(part, sync=True) as temporary,
        open_text(temporary) as copy,
    ):
        write: Callable[[Any], object] = copy.write
        if part.suffix == ".csv":
            write = csv_rows(copy)
            write(CSV_COLUMNS)
        for kept, (_, row) in zip(mask, _text_rows(part, file), strict=True):
            if kept:
                write(row)


def _text_rows(part: Path, file: IO[str]) -> Iterator[tuple[RecordMark, Any]]:
    """Yield each record's mark, and the record: a line of JSON, or the cells of CSV."""
    if part.suffix == ".jsonl":
        for line in file:
            record = json.loads(line)
            yield RecordMark(key_of(record["path"], record.get("frame")), "error" in record), line
        return
    rows = csv.reader(file)
    if next(rows, None) != list(CSV_COLUMNS):
        raise ValueError("its columns are others")
    path, frame, error = map(CSV_COLUMNS.index, ("path", "frame", "error"))
    for row in rows:
        number = int(row[frame]) if row[frame] else None
        yield RecordMark(key_of(row[path], number), bool(row[error])), row


def _parquet_marks(part: Path) -> Iterator[RecordMark]:
    with import_pyarrow().parquet.ParquetFile(part) as file:
        for batch in file.iter_batches(columns=["path", "frame", "error"]):
            for row in batch.to_pylist():
                yield RecordMark(key_of(row["path"], row["frame"]), row["error"] is not None)


@contextmanager
def _readable(part: Path) -> Iterator[None]:
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    except (ValueError, LookupError, TypeError, csv.Error, OSError) as error:
        if isinstance(error, UsageError) or (isinstance(error, OSError) and error.errno):
            raise
        raise UsageError(
            f"{part}: is damaged ({str(error) or 'empty'}); delete it, and its images are done "
            "again."
        ) from None
    finally:
        csv.field_size_limit(limit)
