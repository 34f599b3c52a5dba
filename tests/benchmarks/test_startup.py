from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

import pytest

from benchmarks.bench.document import PROGRAMS, first_predictions, summarise_starts
from benchmarks.bench.processes.worker import Worker
from benchmarks.bench.results import Startup
from numclip_runtime import ImageError, ModelError

SMALL = """
import sys, time
def slow():
    time.sleep(0.3)
    yield "ready"
def lingering():
    yield "ready"
    time.sleep(0.3)
def noisy():
    sys.stderr.write("x" * 1_000_000)
    return "ready"
def broken():
    raise SystemExit("broken file")
def failed():
    sys.exit(3)
def silent():
    yield from ()
def predict_with_torch(**_):
    yield {"value": 1.0}
    yield {"import_s": 0.5, "peak_host_mb": 100.0}
"""


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes find a module of small programs."""
    (tmp_path / "small_programs.py").write_text(SMALL)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{before}")


def start(program: str) -> Worker:
    return Worker(f"small_programs:{program}", "x")


def test_time_ends_at_the_first_answer_and_not_at_the_exit() -> None:
    with start("slow") as worker:
        assert worker.first_s >= 0.3
    begin = perf_counter()
    with start("lingering") as worker:
        assert list(worker.rest()) == []
        assert worker.first_s < perf_counter() - begin - 0.15


def test_median_min_and_max() -> None:
    starts = [(s, {"import_s": s / 10, "peak_host_mb": 10 * s}) for s in (3.0, 1.0, 9.0)]
    assert summarise_starts(starts) == Startup(
        median=3.0, min=1.0, max=9.0, n=3, import_s=0.3, peak_host_mb=30.0
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("broken", r"x: its process ended, exit code 1 \(broken file\)"),
        ("failed", r"exit code 3 \(no output\)"),
        ("silent", r"exit code 0 \(no output\)"),
    ],
)
def test_failed_process_is_an_error(program: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        start(program)


def test_noisy_process_does_not_hang() -> None:
    with start("noisy") as worker:
        assert worker.first_s > 0


def test_runtime_program_predicts(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROGRAMS, "torch", ("small_programs:predict_with_torch", "checkpoint"))
    files = {"numclip_runtime": tiny, "torch": Path("c.pt")}
    found = first_predictions(files, str(photos / "0.png"), threads=1, runs=2)
    assert list(found) == ["numclip_runtime", "torch"]
    lean = found["numclip_runtime"]
    assert 0 < lean.import_s < lean.median
    assert lean.peak_host_mb is not None
    assert 20 < lean.peak_host_mb < 1000
    assert 0 < lean.min <= lean.median <= lean.max
    assert lean.n == 2
    with pytest.raises(ImageError, match=r"nothing\.png: no such file"):
        first_predictions(files, "nothing.png", runs=1)
