from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

import pytest

from benchmarks import first_prediction
from benchmarks.first_prediction import Start, alternate, first_predictions, lines, start_process
from numclip_runtime import ModelError


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-c", code, *arguments]


def test_programs_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[2]); print('ready')"
    programs = {name: python(code, str(log), name) for name in "AB"}
    ticks: list[None] = []
    seconds = alternate(programs, runs=3, tick=lambda: ticks.append(None))
    assert log.read_text() == "ABABAB"
    assert len(ticks) == 6
    assert set(seconds) == {"A", "B"}
    for times in seconds.values():
        assert 0 < times["min"] <= times["median"] <= times["max"]
        assert times["n"] == 3


def test_time_ends_at_the_line_and_not_at_the_exit() -> None:
    wait_before = "import time; time.sleep(0.3); print('ready', flush=True)"
    assert start_process(python(wait_before), name="a").seconds >= 0.3
    wait_after = "import time; print('ready', flush=True); time.sleep(0.3)"
    start = perf_counter()
    seconds = start_process(python(wait_after), name="b").seconds
    assert seconds < perf_counter() - start - 0.15


def test_median_min_and_max(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 30.0, 1.0, 10.0, 9.0, 90.0])

    def start(*_: object, **__: object) -> Start:
        seconds = next(times)
        return Start(seconds, {"peak_host_mb": 10 * seconds})

    monkeypatch.setattr(first_prediction, "start_process", start)
    assert alternate({"a": [], "b": []}, runs=3) == {
        "a": {"median": 3.0, "min": 1.0, "max": 9.0, "n": 3, "peak_host_mb": 30.0},
        "b": {"median": 30.0, "min": 10.0, "max": 90.0, "n": 3, "peak_host_mb": 300.0},
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('broken file')", r"x: the process failed, exit code 1 \(broken file\)"),
        ("print('ready'); raise SystemExit(3)", r"exit code 3 \(no output\)"),
        ("pass", r"exit code 0 \(no output\)"),
    ],
)
def test_failed_process_is_an_error(code: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        start_process(python(code), name="x")


def test_noisy_process_does_not_hang() -> None:
    code = "import sys; sys.stderr.write('x' * 1_000_000); print('ready')"
    assert start_process(python(code), name="x").seconds > 0


def test_runtime_program_predicts(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_prediction, "_TORCH", "start = imported = 0; print('ready')")
    found = first_predictions(tiny, Path("c.pt"), str(photos / "0.png"), threads=1, runs=1)
    assert list(found) == ["numclip_runtime", "torch"]
    lean = found["numclip_runtime"]
    assert 0 < lean["import_s"] < lean["median"]
    assert 20 < lean["peak_host_mb"] < 1000
    assert "numclip_runtime" in lines(found)
    with pytest.raises(ModelError, match=r"numclip_runtime: .*nothing\.png: no such file"):
        first_predictions(tiny, Path("c.pt"), "nothing.png")
