"""Training that is stopped, or whose images, memory or processes fail: one sentence, work kept."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from numclip.cli.train import main
from numclip.data.checks import broken_images
from numclip.data.workers import check_shared_memory, loading_faults, quiet_when_left
from numclip_runtime import ImageError, UsageError
from tests.export.disk import full_disk
from tests.numclip.test_resume import COMMAND, ROOT, environment
from tests.numclip.tiny import TOWERS, write_photos
from tests.runtime.test_cli_process import tiff_with_a_tag_beyond_its_end

RESUME = ("best.ckpt", "last.ckpt")
pytestmark = pytest.mark.usefixtures("default_signals")
FLAGS = "--epochs 4 --batch-size 4 --optimizer adamw --lr-image 1e-3"

LONG = ("--epochs", "12")  # 4 s of training are left when the first epoch is seen to be done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photos(tmp_path, "train", 16)
    write_photos(tmp_path, "val", 5)
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    (tmp_path / "task.toml").write_text(
        'name = "light"\nunit = ""\nbin_edges = [0, 10, 20, 31]\nphrases = ["a", "b", "c"]\n',
        "utf-8",
    )
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    files = {"train": "train.csv", "val": "val.csv", "task": "task.toml", "backbone": "tiny.json"}
    given = [text for name, file in files.items() for text in (f"--{name}", str(folder / file))]
    return [*given, *FLAGS.split(), "-o", str(folder / "a.pt"), *more]


def run(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(folder, *more))


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.is_file():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "group", "word"),
    [
        ("SIGINT", True, "Interrupted"),
        ("SIGTERM", False, "Terminated"),
        ("SIGHUP", True, "Hung up"),
    ],
)
def test_a_signal_keeps_the_finished_epochs(
    name: str, group: bool, word: str, folder: Path
) -> None:
    """A terminal signals the whole group, loading processes included; `docker stop` the first."""
    process = subprocess.Popen(
        [*COMMAND, *arguments(folder, "--workers", "1", *LONG)],
        cwd=ROOT,
        env=environment(SLOW_MS="100"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(folder / "a.run" / "last.ckpt")
    number = getattr(signal, name)
    (os.killpg if group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    kept = f"{word}: the finished epochs are kept in {folder / 'a.run'}; go on with --resume.\n"
    assert err == kept
    assert sorted(p.name for p in (folder / "a.run").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "logs",
        "run.toml",
    ]
    assert not (folder / "a.pt").exists()
    if name == "SIGTERM":
        done = run(folder, "--workers", "0", "--resume", *LONG)
        assert done.exit_code == 0, done.output
        assert "epoch  12/12" in done.output
        assert "epoch   1/12" not in done.output


def test_a_loading_process_that_is_left_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training process, ended by a signal, broke off while it fetched a batch's descriptor."""
    said: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: said.append(kind))
    quiet_when_left(0)
    for error in (EOFError(), ConnectionResetError(), BrokenPipeError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert said == [ValueError]


def test_torchrun_is_stopped_as_a_whole(folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    process = subprocess.Popen(
        [*torchrun, "2", *COMMAND[1:], *arguments(folder, "--workers", "0", *LONG)],
        cwd=ROOT,
        env=environment(SLOW_MS="100"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(folder / "a.run" / "last.ckpt")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "Terminated: the finished epochs are kept in" in err
    assert (folder / "a.run" / "last.ckpt").is_file()
    assert "numclip" not in "".join(line for line in err.splitlines() if "  File " in line)


def test_a_stop_while_images_are_checked_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def slow(path: Path) -> None:
        seen.append(path)
        if len(seen) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    monkeypatch.setattr("numclip.data.checks._decode", slow)
    gc.disable()  # an exception in one of its callbacks, which torch has, would be lost
    try:
        with pytest.raises(KeyboardInterrupt):
            broken_images([tmp_path / f"{i}.png" for i in range(20_000)], "decode")
    finally:
        gc.enable()
    assert 20 <= len(seen) < 10_000  # all would take 25 seconds or more


def truncate(path: Path) -> Path:
    """Make a JPEG file whose header is whole and whose pixels are not."""
    Image.effect_noise((64, 64), 80).convert("RGB").save(path.with_suffix(".jpg"), quality=95)
    content = path.with_suffix(".jpg").read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize("place", ["train/3.png", "val/2.png"])
@pytest.mark.parametrize("processes", ["0", "1"])
def test_an_image_that_opens_and_then_breaks(place: str, processes: str, folder: Path) -> None:
    broken = truncate(folder / place)
    refused = run(folder, "--workers", processes)
    assert refused.exit_code == 2
    (line,) = (text for text in refused.stderr.splitlines() if "Error" in text)
    assert line.startswith(f"Error: {broken}: ")
    assert "Traceback" not in refused.output
    skipped = run(folder, "--workers", processes, "--skip-broken", "--restart")
    assert skipped.exit_code == 0, skipped.output
    assert (folder / "a.pt").is_file()


def test_an_image_left_out_is_said_once_and_counts_nowhere(folder: Path) -> None:
    truncate(folder / "val" / "2.png")
    result = run(folder, "--workers", "0", "--skip-broken")
    warnings = [line for line in result.stderr.splitlines() if "left out from here on" in line]
    assert len(warnings) == 1
    rows = (folder / "val.csv").read_text().splitlines()
    (folder / "val.csv").write_text("\n".join(row for row in rows if "2.png" not in row) + "\n")
    without = run(folder, "--workers", "0")
    last = [text.splitlines()[-2:] for text in (result.stdout, without.stdout)]
    assert last[0] == last[1]  # the same metrics and calibration


def test_odd_metadata_are_no_word_worth(folder: Path) -> None:
    """Pytest makes an error of each of Pillow's warnings that the command lets through."""
    for path in (folder / "train" / "3.png", folder / "val" / "2.png"):
        path.write_bytes(tiff_with_a_tag_beyond_its_end())
    result = run(folder, "--workers", "0")
    assert result.exit_code == 0, result.output


def test_all_images_gone(folder: Path) -> None:
    for name in range(5):
        truncate(folder / "val" / f"{name}.png")
    result = run(folder, "--workers", "0", "--skip-broken")
    assert result.exit_code == 2
    assert "no validation image can be read any more" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such limit")
def test_shared_memory_of_a_container(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 64 << 20  # docker's default
    status = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    # 5 batches of 32 x 3 x 224 x 224 float32, 19.3 MB each, for 2 processes
    with pytest.raises(UsageError, match=r"need 97 MB .* has 67 MB; give --workers 0.*--shm-size"):
        check_shared_memory([(1000, 32)], 224, 2)
    check_shared_memory([(1000, 32)], 224, 0)
    check_shared_memory([(1000, 32)], 224, 1)  # 3 batches are 58 MB
    check_shared_memory([(64, 32)], 224, 8)  # there are only 2 batches
    with pytest.raises(UsageError, match="need 116 MB"):
        check_shared_memory([(1000, 32)], 224, 1, processes=2)

    def absent(_: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "statvfs", absent)
    result = run(folder, "--workers", "1")
    assert result.exit_code == 2
    assert "shared memory, /dev/shm has 0 MB; give --workers 0" in result.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"),
            "Bus err",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "fewer --workers"),
        (RuntimeError("Too many open files. Communication with"), "fewer --workers"),
        (RuntimeError("received 0 items of ancdata"), "fewer --workers"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you"),
            "lower --batch",
        ),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "cannot start a process"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot start a process"),
    ],
)
def test_what_a_loading_process_dies_of(error: Exception, message: str) -> None:
    with pytest.raises(UsageError, match=message), loading_faults(2):
        raise error


def test_other_errors_stay() -> None:
    for error in (RuntimeError("a fault of ours"), OSError(errno.ENOSPC, "No space left")):
        with pytest.raises(type(error), match=error.args[-1]), loading_faults(2):
            raise error
    with pytest.raises(ImageError, match=r"^x\.png: gone$"), loading_faults(2):
        raise ImageError("Caught ImageError in process 0.\nTraceback\nImageError: x.png: gone\n")


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file has more than its first 10 kB after those of the first epoch."""
    import torch

    real = torch.save
    calls: list[object] = []

    def save(content: object, file: IO[bytes]) -> None:
        calls.append(file)
        with full_disk(10_000) if len(calls) > 2 else nullcontext():
            real(content, file)

    monkeypatch.setattr(torch, "save", save)
    yield
    assert len(calls) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_leaves_the_previous_resume_file(folder: Path, no_space: None) -> None:
    result = run(folder, "--workers", "0")
    assert result.exit_code == 2
    said = {f"Error: {folder / 'a.run' / name}: File too large." for name in RESUME}
    assert result.stderr.splitlines()[-1] in said
    assert sorted(p.name for p in (folder / "a.run").iterdir()) == [*RESUME, "logs", "run.toml"]
    import torch

    assert torch.load(folder / "a.run" / "last.ckpt", weights_only=True)["epoch"] == 0
