"""The one reader of tables: CSV files and text lists, row by row; `parquet` reads the third kind.

A row that could be read in two ways is refused: a wrong label trains a wrong model.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from numclip.data.columns import Alternative, column_places, simple_name
from numclip.data.numbers import MAX_ANNOTATIONS, is_like_number
from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.errors import first_line
from numclip_runtime.fields import shown
from numclip_runtime.files import open_regular

MAX_LINE = 1 << 20  # characters; csv itself refuses a cell of more than 131,072
TAB = "\t"
SEPARATORS = {",": "comma", ";": "semicolon", TAB: "tab"}


class Row(NamedTuple):
    """One row of a table."""

    where: str  # file and line, or row, for errors
    cells: Mapping[str, Any]  # by the names that were asked for; text, but in Parquet any type


def read_csv(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    instead: Mapping[str, Alternative] | None = None,
    notes: list[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a UTF-8 file with a header line; empty rows are skipped.

    The separator is a comma, semicolon or tab: the one whose header has the needed columns. Case,
    and blanks and quotes around names do not matter; other columns are ignored.

    Args:
        path: File.
        needed: Names of columns.
        optional: Names of columns that may be missing.
        instead: For needed columns, what may replace them.
        notes: Gets what is unlike a plain table: separator, and columns under other names.

    Raises:
        UsageError: naming file and line, if a needed column is missing or there twice, a row has
            another number of cells than the header, a quote never closes, or the file is no UTF-8
            text.
    """
    lines = _lines(path, "CSV file")
    header, before = next(lines, ""), 0
    if given := re.fullmatch(r"sep=(.)\s*", header):  # the first line of some spreadsheets
        header, before = next(lines, ""), 1
    separator = given[1] if given else _separator(header, needed, instead or {})
    if notes is not None and separator != ",":
        notes.append(f"read as {'tab' if separator == TAB else visible(separator)} separated")
    # a blank after each separator belongs to no cell, and may stand before a quote
    rows = csv.reader(
        chain([header], lines),
        delimiter=separator,
        strict=True,
        skipinitialspace=separator + " " in header
        and header.count(separator) == header.count(separator + " "),
    )
    line = before + 1  # where the row begins
    try:
        names = next(rows)
        while names and not names[-1].strip():  # the header ends in a separator
            names.pop()
        columns = column_places(path, names, needed, optional, instead=instead, notes=notes)
        line = before + rows.line_num + 1
        for row in rows:
            where = f"{visible(path)} line {line}"
            line = before + rows.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            while len(row) > len(names) and not row[-1].strip():
                row.pop()
            if len(row) != len(names):
                raise UsageError(_uneven(where, row, len(names), separator))
            if any("\n" in cell or "\r" in cell for cell in row):
                _refuse_rows_inside(where, row, columns, separator)
            yield Row(where, {name: row[index] for name, index in columns.items()})
    except csv.Error as error:
        where = f"{visible(path)} line {line}"
        if "unexpected end" in str(error):
            raise UsageError(f"{where}: the quote that opens here never closes.") from None
        raise UsageError(
            f"{where}: cannot be read as CSV ({error}); close each quote, and write a quote inside "
            'a quoted cell twice ("").'
        ) from None


def _separator(header: str, needed: Sequence[str], instead: Mapping[str, Alternative]) -> str:
    """Return the separator with which a header names most of the needed columns, or most at all."""

    def fitness(separator: str) -> tuple[int, int]:
        names = {simple_name(cell) for cell in header.split(separator)}
        other = (instead.get(name, Alternative("")).names for name in needed)
        wanted = [
            {*map(simple_name, (name, *names))} for name, names in zip(needed, other, strict=True)
        ]
        return sum(bool(names & group) for group in wanted), len(names)

    return max(SEPARATORS, key=fitness)  # of equals the first, a comma


def _uneven(where: str, row: Sequence[str], expected: int, separator: str) -> str:
    found = len(row)
    cells = f"{where}: has {found} cell{'s' if found != 1 else ''}, the header has {expected}"
    if found < expected:
        return f"{cells}; complete the row."
    name = SEPARATORS.get(separator, repr(separator))
    numbered = found == expected + 1 and row[0].strip().isdecimal()
    way_out = ", or name the first column, where it numbers the rows" if numbered else ""
    return f'{cells}; quote a {name} inside a number or name ("3{separator}5"){way_out}.'


def _refuse_rows_inside(
    where: str, row: Sequence[str], columns: Mapping[str, int], separator: str
) -> None:
    """Refuse a cell with a row inside: the quote that opens it was to close before.

    A line inside a cell is taken for a row if it has as many cells, and numbers in the same ones
    of the needed columns.
    """
    for line in (line for cell in row for line in cell.splitlines()[1:]):
        inner = line.replace('"', "").split(separator)
        if len(inner) == len(row) and all(
            inner[i].strip() and is_like_number(inner[i]) == is_like_number(row[i])
            for i in columns.values()
        ):
            raise UsageError(
                f"{where}: the quote that opens here closes only after the row {shown(line)}; "
                "close it before, or write the text of the cell in one line."
            )


def read_list(path: Path) -> Iterator[Row]:
    """Yield the lines `path label [label ...]` of a UTF-8 file as `path` and a list `label`.

    The labels are the numbers that a line ends in, so a path may hold blanks. Empty lines are
    skipped. The time is proportional to the length of a line.

    Raises:
        UsageError: naming file and line, if a line ends in no number, or the file is no UTF-8 text.
    """
    for count, text in enumerate(_lines(path, "list"), 1):
        line = text.strip().encode()  # bytes split at ASCII blanks only: others group digits
        if not line:
            continue
        where = f"{visible(path)} line {count}"
        words = [word.decode() for word in line.rsplit(None, MAX_ANNOTATIONS + 1)[1:]]
        labels = list(takewhile(is_like_number, reversed(words)))[::-1]
        if not labels:
            raise UsageError(
                f"{where}: expected 'path label [label ...]', got {shown(line.decode())}."
            )
        yield Row(where, {"path": line.rsplit(None, len(labels))[0].decode(), "label": labels})


def _lines(path: Path, kind: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file with their ends (LF, CR LF or CR), each within limits.

    Raises:
        UsageError: if it cannot be read, or is no UTF-8 text.
    """
    count = 0
    with readable(path, kind), open_regular(path) as binary:
        try:
            with io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
                while line := file.readline(MAX_LINE + 1):
                    count += 1
                    if len(line) > MAX_LINE:
                        raise UsageError(
                            f"{visible(path)} line {count}: longer than {MAX_LINE:,} characters."
                        )
                    if "\0" in line:
                        raise UsageError(_not_text(path, count))
                    yield line
        except UnicodeDecodeError:
            raise UsageError(_not_text(path)) from None


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn an OSError into one sentence about a file of this kind."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{visible(path)}: cannot read this {kind} ({error.strerror or first_line(error)})."
        ) from None


def _not_text(path: Path, line: int = 0) -> str:
    """Return why a file is no UTF-8 text, and the way out.

    Args:
        path: File.
        line: Line of a NUL; 0: find the first that is not UTF-8.
    """
    way_out = "save it as UTF-8 (in spreadsheets: 'CSV UTF-8')."
    with open_regular(path) as file:
        block = file.read(4)
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in block:
            return f"{visible(path)}: is UTF-16 text; {way_out}"
        if line:
            return f"{visible(path)} line {line}: holds a NUL character; {way_out}"
        decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
        try:
            while block:
                line += decoder.decode(block).count("\n")
                block = file.read(1 << 16)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            rest: bytes = error.object
            line += rest[: error.start].count(b"\n")
            byte = f"byte 0x{rest[error.start]:02x}"
            return (
                f"{visible(path)} line {line}: is not UTF-8 ({byte}), probably Windows-1252 or "
                f"Latin-1; {way_out}"
            )
    return f"{visible(path)}: changed while it was read."
