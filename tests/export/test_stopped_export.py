"""`numclip-export` is asked to stop: nothing half-written stays, and what is finished does."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from numclip_export.engine.progress import BuildProgress, interrupt_cancels
from numclip_runtime.console import Stopped, stop_signals
from tests.export.killable import start
from tests.export.test_killed import Done, check_whole, done, ended, temporary

__all__ = ["done"]  # the fixture
FILES = {"x.onnx", "x.fp16.onnx", "x.report.json", "x.card.md"}


@pytest.mark.usefixtures("default_signals")
def test_sigterm_cancels_a_build() -> None:
    progress = BuildProgress()
    with stop_signals():
        with interrupt_cancels(progress):
            signal.raise_signal(signal.SIGTERM)
            assert not progress.step("any")
        with pytest.raises(Stopped, match="no engine was written") as caught:
            progress.check()
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("moment", ["files", "engine"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_stopped(done: Done, tmp_path: Path, name: str, moment: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    signum = getattr(signal, name)
    folder = tmp_path / "x"
    shutil.copytree(done.folder, folder)
    for path in folder.glob("x.*"):
        if path.suffix != ".pt":
            path.unlink()
    process = start(folder, done.graph)
    wanted = ".plan" if moment == "engine" else ".part"
    while process.is_alive() and not any(wanted in found for found in temporary(folder)):
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signum)
    assert ended(process) == 128 + signum
    assert temporary(folder) == set()
    found = check_whole(folder)
    assert found >= FILES if moment == "engine" else found == set()
    assert not any(".plan" in file for file in found)
