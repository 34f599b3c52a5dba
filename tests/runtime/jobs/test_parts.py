"""A folder of parts: whole files, each picture once, whatever ended the run before."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime import ImageError, Task, UsageError
from numclip_runtime.jobs import parts as parts_module
from numclip_runtime.jobs.manifest import MANIFEST, Manifest
from numclip_runtime.jobs.parts import Parts, open_parts
from numclip_runtime.results.prediction import Prediction
from numclip_runtime.results.records import PartFormat, Record, record_of

FORMATS: tuple[PartFormat, ...] = ("jsonl", "csv", "parquet")
TASK = Task("age", unit="years", bin_edges=(0, 10, 20), phrases=("young", "old"))
BEGUN = Manifest(model="m.onnx", sha256="ab" * 32, task="age", format="jsonl")
# Names that a format might not give back
ODD = ["a.jpg", "=b,\"c'.jpg", "d\ne.jpg", "f\rg.jpg", "h\udcff.jpg", "i\\udcff.jpg", " ü\t.jpg"]


def record(path: str, frame: int | None = None, *, error: bool = False) -> Record:
    result = ImageError(f"{path}: bad.") if error else made()
    return record_of(path, result, frame=frame, time_s=None if frame is None else 0.5)


def made() -> Prediction:
    return Prediction(12.5, "years", (10.0, 15.0), "old", {"young": 0.25, "old": 0.75})


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return path, frame and error of each record, read with other code."""
    found: list[dict[str, Any]] = []
    for part in sorted(folder.glob("part-*")):
        if part.suffix == ".jsonl":
            found += map(json.loads, part.read_text("utf-8").splitlines())
        elif part.suffix == ".csv":
            with part.open(encoding="utf-8", newline="") as file:
                found += [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
        else:
            found += pytest.importorskip("pyarrow.parquet").read_table(part).to_pylist()
    return found


def added(folder: Path, manifest: Manifest, records: list[Record], **extra: bool) -> Parts:
    with open_parts(folder, manifest, TASK, **extra) as parts:
        for one in records:
            if parts.take(one["path"], one.get("frame")):
                parts.write(one)
    return parts


@pytest.mark.parametrize("csv_safe", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_each_picture_once(tmp_path: Path, kind: PartFormat, csv_safe: bool) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    manifest = replace(BEGUN, format=kind, csv_safe=csv_safe and kind == "csv")
    given = [record(path, error=number == 1) for number, path in enumerate(ODD[:4])]
    given += [record("clip.mp4", 0), record("clip.mp4", 7, error=True)]
    first = added(tmp_path / "out", manifest, given)
    assert (first.before, first.now, first.done, first.failed, first.skipped) == (0, 6, 6, 2, 0)
    more = given + [record(path) for path in ODD[4:5] + ODD[6:]] + [record("clip.mp4", 8)]
    second = added(tmp_path / "out", manifest, [*more, *more])
    assert (second.before, second.now, second.done, second.failed) == (6, 3, 9, 2)
    assert second.skipped == 6 + 9
    places = [(row["path"], str(row.get("frame") or "")) for row in rows(tmp_path / "out")]
    assert len(places) == len(set(places)) == 9


@pytest.mark.parametrize("kind", FORMATS)
def test_failed_ones_again(tmp_path: Path, kind: PartFormat) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    manifest = replace(BEGUN, format=kind)
    fails = {"b.jpg", "c.jpg", "d.jpg"}
    given = [record(path, error=path in fails) for path in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")]
    added(tmp_path, manifest, given)
    added(tmp_path, manifest, [record("e.jpg", error=True)])  # a part of failed ones only
    # d.jpg is not among the inputs now: its record stays
    again = [record("a.jpg"), record("b.jpg"), record("c.jpg", error=True), record("e.jpg")]
    assert added(tmp_path, manifest, again).now == 0
    parts = added(tmp_path, manifest, again, retry_failed=True)
    assert (parts.before, parts.failed_before) == (5, 4)
    assert (parts.now, parts.done, parts.failed) == (3, 5, 2)
    found = {row["path"]: bool(row.get("error")) for row in rows(tmp_path)}
    assert found == {"a.jpg": False, "b.jpg": False, "c.jpg": True, "d.jpg": True, "e.jpg": False}
    assert len(rows(tmp_path)) == 5
    assert [path.name for path in sorted(tmp_path.glob("part-*"))] == [
        f"part-000001.{kind}",
        f"part-000003.{kind}",
    ]


def test_killed_between_new_record_and_removal_of_the_old(tmp_path: Path) -> None:
    added(tmp_path, BEGUN, [record("a.jpg", error=True), record("b.jpg")])
    (tmp_path / "part-000002.jsonl").write_text(json.dumps(record("a.jpg")) + "\n")
    parts = added(tmp_path, BEGUN, [])
    assert (parts.before, parts.failed) == (2, 0)
    assert [row["path"] for row in rows(tmp_path)] == ["b.jpg", "a.jpg"]


def test_parts_are_completed_by_time_and_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def write(parts: Parts, count: int, step_s: float) -> list[int]:
        """Return at which records a part was completed."""
        completed = []
        for number in range(count):
            before = len(list(tmp_path.glob("part-*")))
            clock[0] += step_s
            parts.write(record(f"{parts.now}.jpg"))
            if len(list(tmp_path.glob("part-*"))) > before:
                completed.append(number)
        return completed

    with open_parts(tmp_path, BEGUN, TASK) as parts:
        assert write(parts, 14, 1.0) == [5, 11]  # 5 s
        clock[0] += 100_000
        parts.flush()
        assert write(parts, 62, 1.0) == [30, 61]  # 30 s
        parts.flush()
        monkeypatch.setattr(parts_module, "MOST_RECORDS", 3)
        assert write(parts, 7, 0.0) == [2, 5]
    assert len(rows(tmp_path)) == 14 + 62 + 7


def test_a_killed_run_leaves_whole_parts(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from tests.runtime.jobs.test_parts import BEGUN, TASK, record
from numclip_runtime.jobs.parts import open_parts
with open_parts(Path({str(tmp_path)!r}), BEGUN, TASK) as parts:
    for number in range(5):
        parts.write(record(f"{{number}}.jpg"))
        if number == 2:
            parts.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["path"] for row in rows(tmp_path)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(list(tmp_path.glob(".part-*"))) == 1
    parts = added(tmp_path, BEGUN, [record(f"{number}.jpg") for number in range(5)])
    assert (parts.before, parts.now) == (3, 2)
    assert len(rows(tmp_path)) == 5
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.posix("locks a file")
def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with open_parts(tmp_path, BEGUN, TASK) as parts:
        parts.write(record("a.jpg"))
        with pytest.raises(UsageError, match="another run writes there"):
            added(tmp_path, BEGUN, [])
    assert added(tmp_path, BEGUN, []).before == 1  # the first one lost nothing by it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"sha256": "cd" * 32, "model": "n.onnx"},
            r"m\.onnx \(SHA-256 abababababab\.\.\.\), .*n\.onnx",
        ),
        ({"every": "0.5s"}, "no --every.*--every 0.5s"),
        ({"fast_decode": True}, "no --fast-decode, .*--fast-decode;"),
        ({"format": "csv", "every": "2"}, "--format jsonl and no --every, .*--every 2;"),
    ],
)
def test_runs_of_other_kinds_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    added(tmp_path, BEGUN, [record("a.jpg")])
    with pytest.raises(UsageError, match=f"{words}.*give another folder"):
        added(tmp_path, replace(BEGUN, **change), [])
    other = replace(BEGUN, model="copy.onnx", backend="openvino", numclip="9.9")
    assert added(tmp_path, other, []).begun == BEGUN  # these do not change records


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot read this manifest"),
        ("{}", "missing field"),
        (json.dumps({**vars(BEGUN), "version": 2}), "update numclip"),
        (json.dumps({**vars(BEGUN), "format": "xml"}), "must be one of jsonl, csv, parquet"),
        ("\xff", "cannot read this manifest"),
    ],
)
def test_manifest_that_cannot_be_read(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / MANIFEST).write_text(content, "latin-1")
    with pytest.raises(UsageError, match=f"{re.escape(str(tmp_path))}.*{words}"):
        added(tmp_path, BEGUN, [])


def test_unknown_fields_of_a_manifest_are_left_out(tmp_path: Path) -> None:
    BEGUN.write(tmp_path)
    plain = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**plain, "host": "a"}))
    assert Manifest.read(tmp_path) == BEGUN


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("jsonl", b'{"path": "a.jpg", "value": 1}\n{"path": "b.'),
        ("jsonl", b"[1]\n"),
        ("jsonl", b"\xff\n"),
        ("csv", b""),
        ("csv", b"path,value\na.jpg,1\n"),
        ("csv", b"path,value,unit,interval,bin,bin_probs,error,frame,time_s\na.jpg,1\n"),
        ("parquet", b""),
        ("parquet", b"PAR1....PAR1"),
    ],
)
def test_damaged_part(tmp_path: Path, kind: PartFormat, content: bytes) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    manifest = replace(BEGUN, format=kind)
    manifest.write(tmp_path)
    (tmp_path / f"part-000001.{kind}").write_bytes(content)
    with pytest.raises(UsageError, match=r"part-000001.*is damaged .*delete it"):
        added(tmp_path, manifest, [])


def test_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match=r"holds other files, and no _manifest\.json"):
        added(tmp_path, BEGUN, [])
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(UsageError, match=r"is a file; parts need a folder"):
        added(tmp_path / "holiday.jpg", BEGUN, [])
