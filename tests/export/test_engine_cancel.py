"""Progress of a build, and Ctrl-C at any moment: no crash, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from numclip_export.engine import build as build_module
from numclip_export.engine.build import engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_export.engine.progress import BuildProgress, interrupt_cancels
from tests.export.chain import Chain

LATE = {"vit": 250, "resnet": 180}  # of 256 and 189 steps of a build
RTX = EngineOptions("tensorrt-rtx", compute_capabilities=(86,))


def test_fraction_counts_phases_inside_phases() -> None:
    progress = BuildProgress()
    assert progress.fraction == 0
    progress.start("build", None, 4)
    progress.step("build")
    assert progress.fraction == 0.25
    progress.start("graph", "build", 2)
    progress.start("time", "graph", 10)
    for _ in range(5):
        progress.step("time")
    assert progress.fraction == pytest.approx((1 + 0.5 * 0.5) / 4)
    progress.finish("time")
    progress.step("graph")
    assert progress.fraction == pytest.approx((1 + 0.5) / 4)
    for _ in range(9):  # TensorRT may report more steps than it announced
        progress.step("graph")
    assert progress.fraction == pytest.approx(0.5)
    progress.finish("build")
    progress.finish("graph")


@pytest.fixture
def foreground() -> Iterator[None]:
    """Handle Ctrl-C as in the foreground: tests in the background inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("foreground")
def test_ctrl_c_only_sets_the_flag() -> None:
    progress = BuildProgress()
    before = signal.getsignal(signal.SIGINT)
    with interrupt_cancels(progress):
        progress.check()
        assert progress.step("any")
        signal.raise_signal(signal.SIGINT)
        assert not progress.step("any")
        with pytest.raises(KeyboardInterrupt):
            progress.check()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("foreground")
def test_other_threads_and_ignored_signals_are_left_alone() -> None:
    def enter() -> None:
        with interrupt_cancels(BuildProgress()):
            inside.append(signal.getsignal(signal.SIGINT))

    inside: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or a job in the background
    try:
        enter()
    finally:
        signal.signal(signal.SIGINT, before)
    assert inside == [before, signal.SIG_IGN]


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("steps", [1, 50, None])
def test_cancelled_build_leaves_nothing_behind(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None
) -> None:
    pytest.importorskip("tensorrt_rtx")
    steps = steps or LATE[chain.tower]
    shutil.copy(chain.done.onnx, tmp_path / "x.onnx")
    (tmp_path / "x.plan").write_bytes(b"an older plan")

    class Interrupted(BuildProgress):
        """A user who presses Ctrl-C at a given step of the build."""

        count = 0

        def step(self, phase: str) -> bool:
            Interrupted.count += 1
            if Interrupted.count == steps:
                os.kill(os.getpid(), signal.SIGINT)
                self.cancelled = True  # the main thread may be slower than the builder
            return super().step(phase)

    monkeypatch.setattr(build_module, "BuildProgress", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(tmp_path / "x.onnx", tmp_path / "x.plan", RTX)
    assert steps <= Interrupted.count < steps + 10
    assert {path.name for path in tmp_path.iterdir()} == {"x.onnx", "x.plan"}
    assert (tmp_path / "x.plan").read_bytes() == b"an older plan"


WAIT_FOR_A_STEP = """
import sys
from numclip_export.engine import progress
from numclip_export.cli import main
start = progress.BuildProgress.start
def announce(self, phase, parent, steps):
    print(phase, flush=True)
    start(self, phase, parent, steps)
    if parent is not None:
        while not self.cancelled:
            pass
progress.BuildProgress.start = announce
main()
"""


def heed_ctrl_c() -> None:
    """A job in the background, as the tests may be, ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_signal_ends_the_command_with_130(chain: Chain, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    args = ["--onnx", str(chain.done.onnx), "-o", str(tmp_path), "--target", "tensorrt-rtx"]
    with subprocess.Popen(
        [sys.executable, "-c", WAIT_FOR_A_STEP, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Building engine\n"
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "Interrupted: no engine was written.\n"
    assert not list(tmp_path.iterdir())
