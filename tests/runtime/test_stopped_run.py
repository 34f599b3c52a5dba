"""`numclip-run` is asked to stop: what is done is kept under its name; the exit code says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from numclip_runtime.posix import STOP_SIGNALS
from tests.runtime.test_outputs import KINDS, count

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"
SIGNALS = list(STOP_SIGNALS)
pytestmark = [
    pytest.mark.posix("signals another process"),
    pytest.mark.usefixtures("default_signals"),
]


def wait(ready: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.01)
    assert ready()


def sleeps(pid: int) -> bool:
    """Return whether a process and its children sleep; what waits for a core does not."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            children = (task / "children").read_text().split()
        except FileNotFoundError:  # it has ended
            return False
        if state != "S" or not all(map(sleeps, map(int, children))):
            return False
    return True


def waits(pid: int) -> bool:
    """Return whether a process waits for its input: it sleeps, not for a moment only."""
    for _ in range(8):
        if not sleeps(pid):
            return False
        time.sleep(0.01)
    return True


class Running:
    """A run that has made three records from a list on standard input, and waits for more."""

    def __init__(
        self, tiny: Path, photos: Path, out: Path, before: Sequence[str | Path] = ()
    ) -> None:
        copies = out.with_name("copies")
        self.process = subprocess.Popen(
            [*before, COMMAND, tiny, "-", "-o", out, "--annotate", copies],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdin is not None
        for name in ("dark.png", "gone.jpg", "light.jpg"):
            print(photos / name, file=self.process.stdin, flush=True)
        wait(lambda: list(copies.glob("**/light.jpg")))
        wait(lambda: waits(self.process.pid))  # the third record follows its copy
        assert not out.exists(), "the name appears only when the file is complete"

    def ended(self) -> tuple[int, str]:
        with self.process as process:
            assert process.stderr is not None
            return process.wait(20), process.stderr.read()


@pytest.mark.parametrize("signum", SIGNALS[1:], ids=lambda one: one.name)
@pytest.mark.parametrize("kind", KINDS)
def test_records_are_kept(
    tiny: Path, photos: Path, tmp_path: Path, kind: str, signum: signal.Signals
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"out.{kind}"
    run = Running(tiny, photos, out)
    run.process.send_signal(signum)
    word = {"SIGTERM": "Terminated", "SIGHUP": "Hung up"}[signum.name]
    assert run.ended() == (128 + signum, f"{word}: 3 images done and kept.\n")
    assert count(out) == 3
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "photos", "copies"}


def test_nohup_goes_on(tiny: Path, photos: Path, tmp_path: Path) -> None:
    run = Running(tiny, photos, out := tmp_path / "out.jsonl", ["nohup"])
    run.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert run.process.stdin is not None
    run.process.stdin.close()
    code, _ = run.ended()
    assert (code, count(out)) == (1, 3)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs root",
)
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda one: one.name)
def test_the_first_process_of_a_container(
    tiny: Path, photos: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    """The kernel gives process 1 no default action: it ignores what it does not handle."""
    before = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces of processes here")
    run = Running(tiny, photos, out := tmp_path / "out.jsonl", before)
    outer = run.process.pid
    (inner,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    os.kill(int(inner), signum)
    code, _ = run.ended()
    assert (code, count(out)) == (128 + signum, 3)


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_stopped_at_any_moment(tiny: Path, photos: Path, tmp_path: Path, kind: str) -> None:
    """Each image is a record or is not; the file is valid, or the run had not begun it."""
    out = tmp_path / "o" / f"out.{kind}"
    out.parent.mkdir()
    for pause_ms in (150, 300, 500, 800):
        args: list[str | Path] = [COMMAND, tiny, *[photos / "dark.png"] * 3000, "-o", out]
        with subprocess.Popen(args, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr is not None
            time.sleep(pause_ms / 1000)
            run.send_signal(signal.SIGTERM)
            errors = run.stderr.read()
        left = [path.name for path in out.parent.iterdir()]
        if run.returncode == 0:  # a fast machine
            assert (left, count(out), errors) == ([out.name], 3000, "")
            out.unlink()
        elif left == [out.name]:
            said = f"Terminated: {count(out)} of 3000 images done and kept.\n"
            ends = [(143, said)]
            if count(out) == 3000:  # the run had ended, or even Python's handlers of signals
                ends += [(143, "Terminated.\n"), (-15, "")]
            assert (run.returncode, errors) in ends
            out.unlink()
        else:  # before the handlers, or before the first image
            assert (left, run.returncode in (143, -15)) == ([], True)
            assert errors in ("", "Terminated.\n")


def test_the_end_of_json_cannot_fail(tiny: Path, photos: Path, tmp_path: Path) -> None:
    """Found: a disk that filled up at the closing bracket lost all records."""
    out = tmp_path / "out.json"
    run = Running(tiny, photos, out)
    (part,) = tmp_path.glob(".out.*.part.json")
    assert len(json.loads(part.read_text())) == 3, "valid before it is closed"
    run.process.send_signal(signal.SIGTERM)
    assert run.ended()[0] == 143
    assert len(json.loads(out.read_text())) == 3
