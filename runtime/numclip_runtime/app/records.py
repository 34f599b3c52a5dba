"""Records of `numclip-run`, and their writers: table, JSON, JSONL, CSV, Parquet (extra)."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.console import visible
from numclip_runtime.errors import ImageError, import_extra
from numclip_runtime.files import atomic_path, naming
from numclip_runtime.predictor import Prediction
from numclip_runtime.task import Task

Record: TypeAlias = dict[str, Any]
Format = Literal["table", "json", "jsonl", "csv", "parquet"]
# The last two are about videos; they were added later, and the others kept their places
CSV_COLUMNS = ("path", "value", "unit", "interval", "bin", "bin_probs", "error", "frame", "time_s")
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
    path: Path | None, kind: Format, task: Task, *, intervals: bool = False
) -> Iterator[Writer]:
    """Open an output for records.

    Args:
        path: File to write, which appears only when complete; None: standard output.
        kind: Format; "parquet" needs a file.
        task: Of the predictions.
        intervals: Whether predictions carry one.

    Raises:
        UsageError: if the file cannot be written.
        OSError: while writing, such as when the disk is full; it names the file.
        MissingDependencyError: if pyarrow is needed and not installed.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # for a path that it cannot encode
            sys.stdout.reconfigure(errors="backslashreplace")
        with RecordWriter(kind, sys.stdout, intervals=intervals) as text:
            yield text
    elif kind == "parquet":
        with (
            naming(path),
            atomic_path(path) as temporary,
            temporary.open("wb") as binary,
            ParquetWriter(binary, task) as rows,
        ):
            yield rows
    else:
        with (
            naming(path),
            atomic_path(path) as temporary,
            temporary.open("wb", buffering=0) as raw,
            RecordWriter(kind, WholeWrites(raw, path), intervals=intervals) as text,
        ):
            yield text


class RecordWriter:
    """Write records as text, valid after every record once it is closed.

    After an exception that comes before the first record, nothing is written at all.

    Args:
        kind: Output format; "parquet" is `ParquetWriter`'s.
        file: Text file open for writing; stays open.
        intervals: Whether a table has a column for them.
    """

    def __init__(
        self, kind: Format, file: IO[str] | WholeWrites, *, intervals: bool = False
    ) -> None:
        self.file = file
        self._intervals = intervals
        self._count = 0  # of records, and of the head
        self._begin: Callable[[], object] = lambda: None
        self._end: Callable[[], object] = lambda: None
        self._write: Callable[[Record], object]
        if kind == "csv":
            table = csv.writer(file, lineterminator="\n")
            self._begin = lambda: table.writerow(CSV_COLUMNS)
            self._write = lambda record: table.writerow(_csv_cells(record))
        elif kind == "jsonl":
            self._write = lambda record: file.write(_json(record) + "\n")
        elif kind == "json":
            self._write = lambda record: file.write(
                (",\n" if self._count else "[\n") + _json(record)
            )
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

    def _write_row(self, record: Record) -> None:
        if self._count == 0:
            self._row("value", f"{DEFAULT_COVERAGE:.0%} interval", "bin", "path")
        if "error" in record:
            self._row("failed", "", "", visible(record["error"]))
            return
        number = f"{record['value']:.2f} {record['unit']}".rstrip()
        chosen = f"{record['bin']} {record['bin_probs'][record['bin']]:.0%}"
        interval = (
            "" if record["interval"] is None else "{:.2f} to {:.2f}".format(*record["interval"])
        )
        self._row(number, interval, chosen, visible(place_of(record)))

    def _row(self, value: str, interval: str, chosen: str, path: str) -> None:
        between = f"{interval:<18}  " if self._intervals else ""
        self.file.write(f"{value:>14}  {between}{chosen:<34}  {path}\n")

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._count == 0 and kind is None:
            self._begin()
        if self._count or kind is None:
            self._end()
            self.file.flush()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _csv_cells(record: Record) -> list[object]:
    cells = [record.get(column) for column in CSV_COLUMNS]
    return [_json(cell) if isinstance(cell, (dict, tuple)) else cell for cell in cells]


class WholeWrites:
    """A text file in UTF-8 into which each `write` goes in full, or not at all.

    If the disk is full, the part of a record that was written is cut off again, so that the records
    before it stay valid.

    Args:
        file: Unbuffered: a buffer would keep what could not be written.
        path: Named in errors.
    """

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, text: str) -> int:
        """Write a text; a path that is not UTF-8 becomes \\udcXX, which JSON reads back."""
        content, start = text.encode("utf-8", "backslashreplace"), self._file.tell()
        with naming(self._path):
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(start)
                self._file.seek(start)
                raise
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def import_pyarrow() -> Any:
    """Import pyarrow with its Parquet module.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    import_extra("parquet", "pyarrow.parquet")
    return import_extra("parquet", "pyarrow")


class ParquetWriter:
    """Write records in row groups; the file can be read once this is closed.

    The columns are the fields of the records. `interval` is a struct of low and high, `bin_probs` a
    struct with one field per phrase, lowest bin first.

    Args:
        file: Binary file open for writing; stays open.
        task: Gives the phrases.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
    """

    def __init__(self, file: IO[bytes], task: Task) -> None:
        self._arrow = arrow = import_pyarrow()
        number, text = arrow.float64(), arrow.string()
        self._schema = arrow.schema(
            [
                ("path", text),
                ("frame", arrow.int64()),
                ("time_s", number),
                ("value", number),
                ("unit", text),
                ("interval", arrow.struct([("low", number), ("high", number)])),
                ("bin", text),
                ("bin_probs", arrow.struct([(phrase, number) for phrase in task.phrases])),
                ("error", text),
            ]
        )
        self._rows: list[Record] = []
        self._writer = arrow.parquet.ParquetWriter(file, self._schema)

    def write(self, record: Record) -> None:
        """Collect one record; every `ROW_GROUP`-th call writes."""
        row = {"interval": None, **record}
        if row["interval"] is not None:
            row["interval"] = dict(zip(("low", "high"), row["interval"], strict=True))
        for field in ("path", "error"):  # a name that is not UTF-8: as in the text formats
            if field in row:
                row[field] = row[field].encode("utf-8", "backslashreplace").decode()
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
            self._rows = []

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


Writer: TypeAlias = RecordWriter | ParquetWriter
