"""Records of `numclip-run`, and their writers: table, JSON, JSONL, CSV, Parquet (extra)."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Literal, TypeAlias

from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.console import is_utf8, visible
from numclip_runtime.errors import ImageError
from numclip_runtime.files import atomic_path
from numclip_runtime.results.columns import RecordColumns, import_pyarrow
from numclip_runtime.results.prediction import Prediction
from numclip_runtime.results.whole_writes import WholeWrites
from numclip_runtime.task import Task

Record: TypeAlias = dict[str, Any]
Format = Literal["table", "json", "jsonl", "csv", "parquet"]
PartFormat = Literal["jsonl", "csv", "parquet"]  # of a folder's parts
# The last two are about videos; they were added later, and the others kept their places
CSV_COLUMNS = ("path", "value", "unit", "interval", "bin", "bin_probs", "error", "frame", "time_s")
# How a cell of a spreadsheet begins that is taken for a formula, and so may start programs
FORMULA = ("=", "+", "-", "@", "\t", "\r")
ROW_GROUP = 4096  # records that Parquet holds in memory until it writes them


def record_of(
    path: str,
    result: Prediction | ImageError,
    *,
    frame: int | None = None,
    time_s: float | None = None,
) -> Record:
    """Return the record of one picture: prediction fields, or {"path", "error"}.

    Args:
        path: Of the image or video.
        result: Its prediction, or its error.
        frame: Index in the video; None: an image, whose record has neither of these two fields.
        time_s: Since the video's first frame.
    """
    place = {} if frame is None else {"frame": frame, "time_s": time_s}
    if isinstance(result, ImageError):
        return {"path": path, **place, "error": str(result)}
    return {"path": path, **place, **result.to_dict()}


def place_of(record: Record) -> str:
    """Return where a record's picture is, for people: the path, and the frame of a video."""
    if "frame" not in record:
        return str(record["path"])
    return f"{record['path']} frame {record['frame']} ({record['time_s']:.2f} s)"


@contextmanager
def open_writer(
    path: Path | None,
    kind: Format,
    task: Task,
    *,
    intervals: bool = False,
    csv_safe: bool = False,
    sync: bool = False,
) -> Iterator[Writer]:
    """Open an output for records.

    Args:
        path: File to write, which appears only when complete; None: standard output.
        kind: Format; "parquet" needs a file.
        task: Of the predictions.
        intervals: Whether predictions carry one.
        csv_safe: See `RecordWriter`.
        sync: See `atomic_path`.

    Raises:
        UsageError: if the file cannot be written.
        OSError: while writing, such as when the disk is full; it names the file.
        MissingDependencyError: if pyarrow is needed and not installed.
    """
    if path is None:
        with RecordWriter(
            kind, sys.stdout, task=task, intervals=intervals, csv_safe=csv_safe
        ) as text:
            yield text
    elif kind == "parquet":
        with (
            atomic_path(path, sync=sync) as temporary,
            temporary.open("wb") as binary,
            ParquetWriter(binary, task) as rows,
        ):
            yield rows
    else:
        with (
            atomic_path(path, sync=sync) as temporary,
            temporary.open("wb", buffering=0) as raw,
            RecordWriter(
                kind,
                WholeWrites(raw, path),
                task=task,
                intervals=intervals,
                csv_safe=csv_safe,
            ) as text,
        ):
            yield text


class RecordWriter:
    """Write records as text, valid after every record once it is closed.

    After an exception that comes before the first record, nothing is written at all.

    Args:
        kind: Output format; "parquet" is `ParquetWriter`'s.
        file: Text file open for writing; stays open. JSON in it is valid in its encoding.
        task: Determines the digits of a table; None: two after the point.
        intervals: Whether a table has a column for them.
        csv_safe: Write "'" before a CSV cell of text that a spreadsheet would take for a formula.
    """

    def __init__(
        self,
        kind: Format,
        file: IO[str] | WholeWrites,
        *,
        task: Task | None = None,
        intervals: bool = False,
        csv_safe: bool = False,
    ) -> None:
        self.file = file
        # of the column "young adult 61%"
        self._chosen = 34
        if task is not None:
            self._chosen = min(34, max(len(visible(phrase)) for phrase in task.phrases) + 5)
        self._number = "{:.2f}".format if task is None else partial(task.number, places=2)
        self._intervals, self._csv_safe = intervals, csv_safe
        self._count = 0  # of records, and of the head
        self._begin: Callable[[], object] = lambda: None
        self._end: Callable[[], object] = lambda: None
        self._write: Callable[[Record], object]
        ascii_only = not is_utf8(getattr(file, "encoding", None))
        # one for all records: making it takes longer than using it
        self._json = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False).encode
        if kind == "csv":
            row = csv_rows(file)
            self._begin = lambda: row(CSV_COLUMNS)
            self._write = lambda record: row(self._cells(record))
        elif kind == "jsonl":
            self._write = lambda record: file.write(self._json(record) + "\n")
        elif kind == "json":
            self._write = lambda record: file.write(
                (",\n" if self._count else "[\n") + self._json(record)
            )
            if isinstance(file, WholeWrites):
                file.ending = "\n]\n"
                self._end = lambda: None if self._count else file.replace("[]\n")
            else:
                self._end = lambda: file.write("\n]\n" if self._count else "[]\n")
        else:
            self._write = self._write_row

    def write(self, record: Record) -> None:
        """Write one record."""
        if self._count == 0:
            self._begin()
        self._write(record)
        self._count += 1
        self.file.flush()

    def _cells(self, record: Record) -> list[object]:
        cells = [record.get(column) for column in CSV_COLUMNS]
        cells = [self._json(cell) if isinstance(cell, (dict, tuple)) else cell for cell in cells]
        if self._csv_safe:
            return [csv_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        return cells

    def _write_row(self, record: Record) -> None:
        if self._count == 0:
            self._row("value", f"{DEFAULT_COVERAGE:.0%} interval", "bin", "path")
        if "error" in record:
            self._row("failed", "", "", visible(record["error"]))
            return
        number = self._number
        value = f"{number(record['value'])} {visible(record['unit'])}".rstrip()
        chosen = f"{visible(record['bin'])} {record['bin_probs'][record['bin']]:.0%}"
        interval = ""
        if record["interval"] is not None:
            interval = " to ".join(number(end) for end in record["interval"])
        self._row(value, interval, chosen, visible(place_of(record)))

    def _row(self, value: str, interval: str, chosen: str, path: str) -> None:
        between = f"{interval:<18}  " if self._intervals else ""
        self.file.write(f"{value:>14}  {between}{chosen:<{self._chosen}}  {path}\n")

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._count == 0 and kind is None:
            self._begin()
        if self._count or kind is None:
            self._end()
            self.file.flush()


def csv_rows(file: IO[str] | WholeWrites) -> Callable[[Iterable[object]], object]:
    """Return a function that writes a row of CSV; a "\r" in it is quoted as if it ended lines."""
    lines = SimpleNamespace(write=lambda row: file.write(row[:-2] + "\n"))
    return csv.writer(lines, lineterminator="\r\n").writerow


def csv_cell(text: str) -> str:
    """Return a text with "'" before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


class ParquetWriter:
    """Write records in row groups, see `RecordColumns`; the file can be read once this is closed.

    Args:
        file: Binary file open for writing; stays open.
        task: Gives the phrases.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
    """

    def __init__(self, file: IO[bytes], task: Task) -> None:
        self._columns = RecordColumns(task)
        self._rows: list[Record] = []
        self._writer = import_pyarrow().parquet.ParquetWriter(file, self._columns.schema)

    def write(self, record: Record) -> None:
        """Collect one record; every `ROW_GROUP`-th call writes."""
        self._rows.append(self._columns.row(record))
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._columns.table(self._rows))
            self._rows = []

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


Writer: TypeAlias = RecordWriter | ParquetWriter
