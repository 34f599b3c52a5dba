"""`numclip-run --watch`: a record per picture that comes, over signals, kills and lost folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.watching import watch as watch_module
from numclip_runtime.app.watching.folder_watch import RETRIES_S, FolderWatch
from numclip_runtime.app.watching.watch import watch
from numclip_runtime.signals import Stopped
from tests.runtime.conftest import invoke

Step = Callable[[], object]


def picture(path: Path, shade: int = 100, *, age_s: float = 60.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (shade,) * 3).save(path)
    then = time.time() - age_s
    os.utime(path, (then, then))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for part in sorted(folder.glob("part-*.jsonl"))
        for line in part.read_text("utf-8").splitlines()
    ]


def names(folder: Path) -> list[str]:
    return sorted(Path(row["path"]).name for row in rows(folder))


class Script:
    """Steps, each done when the watch has nothing to do; then a signal."""

    def __init__(self, *steps: Step, signum: int = signal.SIGTERM) -> None:
        self.steps: Iterator[Step] = iter(steps)
        self.signum, self.passed_s = signum, 0.0

    def sleep(self, seconds: float) -> None:
        self.passed_s += max(seconds, 60.0)  # past every wait
        step = next(self.steps, None)
        if step is None:
            raise Stopped(self.signum)
        step()

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s


@pytest.fixture
def play(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that watches tmp_path/in into tmp_path/out while a script is played."""
    (tmp_path / "in").mkdir()

    def run(*steps: Step, signum: int = signal.SIGTERM, **options: Any) -> int:
        script = Script(*steps, signum=signum)
        monkeypatch.setattr(watch_module, "time", script)
        monkeypatch.setattr(
            watch_module,
            "FolderWatch",
            lambda *given, **more: FolderWatch(*given, **more, clock=script.monotonic),
        )
        flags = RunOptions(output=tmp_path / "out", watched=True, **options)
        return watch(tiny, tmp_path / "in", flags)

    return run


def test_pictures_that_come_get_a_record_each(play: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    code = play(
        lambda: picture(folder / "b.png", age_s=0),
        lambda: None,
        lambda: picture(folder / "night" / "c.png"),
        lambda: picture(folder / "a.png", 200),  # replaced: its name is done
    )
    assert code == 143
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    expected = 100 / 127.5 - 1  # of tiny.onnx, whose value grows with the brightness
    assert all(row["value"] < 15 for row in rows(tmp_path / "out")) == (expected < 0)


def test_the_next_watch_goes_on(play: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "b.png"):
        picture(folder / name)
    assert play(signum=signal.SIGINT) == 130
    picture(folder / "c.png")
    assert play() == 143
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.png"]


def test_a_broken_picture_is_one_failed_record_after_some_tries(
    play: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "in" / "a.jpg"
    broken.write_bytes(b"\xff\xd8 not much")
    assert play(*[lambda: None] * len(RETRIES_S)) == 143
    assert names(tmp_path / "out") == []  # tries are left
    assert play(*[lambda: None] * (len(RETRIES_S) + 2)) == 143
    (row,) = rows(tmp_path / "out")
    assert set(row) == {"path", "error"}
    assert "1 of 1 failed" in capsys.readouterr().err


def test_a_picture_that_is_completed_late_is_read_whole(
    play: Callable[..., int], tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole.png", tmp_path / "in" / "a.png"
    picture(whole)
    path.write_bytes(whole.read_bytes()[:40])
    code = play(
        lambda: None, lambda: None, lambda: shutil.copyfile(whole, path), *[lambda: None] * 2
    )
    assert code == 143
    (row,) = rows(tmp_path / "out")
    assert "value" in row


def test_deleted_before_it_was_read_is_a_sentence(
    play: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    picture(folder / "b.png")
    look = FolderWatch.look

    def look_and_lose(self: Any) -> list[str]:
        found = look(self)
        (folder / "b.png").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(FolderWatch, "look", look_and_lose)
    assert play() == 143
    assert names(tmp_path / "out") == ["a.png"]
    assert "b.png: deleted before it was read; no record." in capsys.readouterr().err


def test_a_folder_that_vanishes_and_comes_back(play: Callable[..., int], tmp_path: Path) -> None:
    folder, away = tmp_path / "in", tmp_path / "away"
    picture(folder / "a.png")
    code = play(
        lambda: folder.rename(away),
        lambda: None,
        lambda: picture(away / "b.png"),
        lambda: away.rename(folder),
    )
    assert code == 143
    assert names(tmp_path / "out") == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--watch", "nowhere", "-o", "out/"), "nowhere: no such folder"),
        (("--watch", "in"), "name it, such as -o records/"),
        (("a.jpg", "--watch", "in", "-o", "out/"), "leave a.jpg out"),
        (("--watch", "in", "-o", "x.csv"), "-o x/ --format csv"),
        (("--watch", "in", "-o", "out/", "--every", "2"), "--every has no use with --watch"),
        (("--watch", "in", "-o", "out/", "--annotate", "copies"), "--annotate"),
        (("--watch", "in", "-o", "out/", "--poll", "fast"), "not a time from 0.05 to 3600 seconds"),
        (("in", "--poll", "2s"), "--poll is for --watch"),
    ],
)
def test_wrong_use_is_said_at_once(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    done = invoke(tiny, *arguments)
    assert (done.exit_code, message in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_kill_loses_and_doubles_nothing(tiny: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(30):
        picture(folder / f"{number:02}.png", number)
    command = [sys.executable, "-m", "numclip_runtime", str(tiny), "--watch", str(folder)]
    command += ["-o", f"{out}/", "--poll", "0.05"]

    def written(leftovers: set[Path]) -> int:
        """Return the number of records in the parts, and in the one that is being written."""
        parts = {part for part in out.glob("*.jsonl") if part not in leftovers}
        with suppress(FileNotFoundError):  # it got its name meanwhile
            return sum(part.read_bytes().count(b"\n") for part in parts)
        return 0

    def started(until: int) -> subprocess.Popen[bytes]:
        """Start a watch, and return it once so many records are written."""
        leftovers = {part for part in out.glob("*.jsonl") if part.name.startswith(".")}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and written(leftovers) < until:
            time.sleep(0.01)
        return process

    first = started(until=1)
    first.kill()
    first.wait()
    picture(folder / "late.png")
    second = started(until=31)
    second.send_signal(signal.SIGTERM)
    assert second.wait() == 143
    assert names(out) == sorted([*(f"{number:02}.png" for number in range(30)), "late.png"])
