"""Labelled images: CSV files, text lists, Parquet files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from numclip.data.readers import read_samples
from numclip_runtime import Task
from tests.fuzz.harness import FindingError, refusals, scratch, written

SUFFIXES = (".csv", ".txt", ".parquet")  # by the first byte
TASK = Task("x", "", (0, 10, 20, 30), ("low", "middle", "high"))


def target(data: bytes) -> None:
    kind = data[0] if data else 0
    _photo("a.jpg", "b c.jpg")
    group = "group" if kind & 0x80 else None
    path = written(data[1:], SUFFIXES[kind % 3])
    with refusals():
        for sample in read_samples(path, TASK, group_column=group):
            if not math.isfinite(sample.label) or not TASK.contains(sample.label):
                raise FindingError(f"label {sample.label}")


def _photo(*names: str) -> None:
    for name in names:
        if not (photo := scratch() / name).exists():
            photo.touch()


def _table(rows: list[list[str]], **options: str) -> bytes:
    file = io.StringIO()
    csv.writer(file, **options).writerows(rows)  # type: ignore[arg-type]
    return file.getvalue().encode()


def seeds() -> Iterator[bytes]:
    rows = [["path", "label", "group"], ["a.jpg", "3", "x"], ["b c.jpg", "4.5 5", "y,z"]]
    for kind in (b"\0", b"\x81"):
        yield kind + _table(rows)
        yield kind + b"\xef\xbb\xbf" + _table(rows, delimiter=";")
    yield b"\0path,label\na.jpg,3,5\n"
    yield b'\0path,label\n"a.jpg,3\nb.jpg,4\n'
    yield "\0path,label\na.jpg,1\u202f234\n".encode()
    yield b"\1a.jpg 3\nb c.jpg 4 5 1e1\n"
    yield b"\1a.jpg " + b"1 " * 200 + b"x\n"
    if find_spec("pyarrow"):
        yield from _parquet()


def _parquet() -> Iterator[bytes]:
    import pyarrow as arrow
    from pyarrow import parquet

    path = Path(scratch() / "seed.parquet")
    for labels in ([3.0, 5.0], [[1.0, 2.0], [4.0]], ["3", "4"]):
        table = {"path": ["a.jpg", "b c.jpg"], "label": labels, "group": ["x", None]}
        parquet.write_table(arrow.table(table), path)
        yield b"\2" + path.read_bytes()
