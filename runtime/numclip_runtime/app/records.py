"""Record writers of `numclip-run`: table, JSON, JSONL, CSV (Parquet: see `parquet`)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.console import visible
from numclip_runtime.errors import ImageError
from numclip_runtime.predictor import Prediction

Record: TypeAlias = dict[str, Any]
Format = Literal["table", "json", "jsonl", "csv", "parquet"]
# The last two are about videos; there, the others keep the places they always had
CSV_COLUMNS = ("path", "value", "unit", "interval", "bin", "bin_probs", "error", "frame", "time_s")


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
        result: What became of it.
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


class TextFile(Protocol):
    """What records are written to: a text file, or `WholeWrites`."""

    def write(self, text: str, /) -> int: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102


class RecordWriter:
    """Write records one by one, so that what is written stays valid at any moment of `close`.

    Args:
        kind: Output format; "parquet" is `ParquetWriter`'s.
        file: Text file open for writing; stays open.
        intervals: Whether a table has a column for them.
    """

    def __init__(self, kind: Format, file: TextFile, *, intervals: bool = False) -> None:
        self.file = file
        self._intervals = intervals
        self._count = 0
        self._close: Callable[[], None] = lambda: None
        self.write: Callable[[Record], None]
        if kind == "csv":
            table = csv.writer(file, lineterminator="\n")
            table.writerow(CSV_COLUMNS)
            self.write = lambda record: self._write_cells(table.writerow, record)
        elif kind == "jsonl":
            self.write = lambda record: self._line(_json(record))
        elif kind == "json":
            self.write = self._write_json
            self._close = lambda: self._line("\n]" if self._count else "[]")
        else:
            self.write = self._write_row

    def _line(self, text: str) -> None:
        self.file.write(text + "\n")
        self.file.flush()

    def _write_json(self, record: Record) -> None:
        self.file.write((",\n" if self._count else "[\n") + _json(record))
        self.file.flush()
        self._count += 1

    def _write_cells(self, write: Callable[[list[object]], object], record: Record) -> None:
        write(_csv_cells(record))
        self.file.flush()

    def _write_row(self, record: Record) -> None:
        if self._count == 0:
            self._row("value", f"{DEFAULT_COVERAGE:.0%} interval", "bin", "path")
        self._count += 1
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
        self._line(f"{value:>14}  {between}{chosen:<34}  {path}")

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _csv_cells(record: Record) -> list[object]:
    cells = [record.get(column) for column in CSV_COLUMNS]
    return [_json(cell) if isinstance(cell, (dict, tuple)) else cell for cell in cells]
