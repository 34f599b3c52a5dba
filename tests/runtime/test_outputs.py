"""Outputs under stress: Parquet, full disks, Ctrl-C, progress. One record per input, always."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from numclip_runtime import Predictor
from numclip_runtime.app.interrupt import Interrupt
from numclip_runtime.app.progress import Progress, line
from numclip_runtime.results.records import ParquetWriter
from tests.runtime.conftest import invoke

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"
KINDS = ["csv", "json", "jsonl", "parquet"]


def count(path: Path) -> int:
    """Return how many records a file holds, reading all of it."""
    if path.suffix == ".parquet":
        return len(pytest.importorskip("pyarrow.parquet").read_table(path))
    text = path.read_text()
    if path.suffix == ".json":
        return len(json.loads(text))
    lines = text.splitlines()
    if path.suffix == ".jsonl":
        return len([json.loads(row) for row in lines])
    assert {row.count(",") >= 8 for row in lines} == {True}
    return len(lines) - 1


def test_parquet_holds_the_records(tiny: Path, photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    args = [tiny, photos, photos / "gone.jpg"]
    assert invoke(*args, "-o", out).exit_code == 1
    rows = parquet.read_table(out).to_pylist()
    for row, text in zip(rows, invoke(*args).stdout.splitlines(), strict=True):
        record = json.loads(text)
        assert {name: row[name] for name in record} == record
        assert all(row[name] is None for name in set(row) - set(record))


def test_parquet_row_groups_intervals_and_names(tiny: Path, predictor: Predictor) -> None:
    parquet, file = pytest.importorskip("pyarrow.parquet"), io.BytesIO()
    record: dict[str, Any] = {"path": "a\udcff.png", "value": 1.5, "interval": (1.0, 2.0)}
    with ParquetWriter(file, predictor.metadata.task) as writer:
        for index in range(9000):
            writer.write(record | {"frame": index})
        assert file.tell() > 0, "nothing was written before the end"
    written = parquet.ParquetFile(file)
    groups = [written.metadata.row_group(i).num_rows for i in range(written.num_row_groups)]
    assert groups == [4096, 4096, 808]
    table = written.read().to_pylist()
    assert [row["frame"] for row in table] == list(range(9000))
    assert table[0]["interval"] == {"low": 1.0, "high": 2.0}
    assert table[0]["path"] == r"a\udcff.png"


def test_parquet_needs_a_file_and_pyarrow(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    missing = invoke(tiny, photos, "-o", tmp_path / "a.parquet")
    assert missing.exit_code == 2
    assert missing.stderr.endswith("pip install 'numclip[parquet]'\n")
    nowhere = invoke(tiny, photos, "--format", "parquet")
    assert (nowhere.exit_code, nowhere.stdout) == (2, "")
    assert nowhere.stderr == "Error: Parquet is not text: name a file with --output.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["table", "csv", "json", "jsonl"])
def test_full_disk_behind_stdout(tiny: Path, photos: Path, kind: str) -> None:
    # an unbuffered stdout has nothing left that could fail once more when Python ends
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    args: list[str | Path] = [COMMAND, tiny, photos, "--format", kind]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            args, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=env
        )
    assert (done.returncode, done.stderr) == (2, "Error: No space left on device.\n")


def test_parquet_on_a_full_disk_fails_once(predictor: Predictor) -> None:
    pytest.importorskip("pyarrow")

    class Full(io.BytesIO):
        full = False

        def write(self, data: Any) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    file = Full()
    writer = ParquetWriter(file, predictor.metadata.task)
    writer.write({"path": "a.png", "error": "a.png: no such file."})
    file.full = True
    with pytest.raises(OSError, match="No space left"):
        writer.__exit__(None, None, None)
    del writer
    gc.collect()  # a second try then would be an "Exception ignored", and pytest's error


def limit_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


@pytest.mark.posix("limits the size of files")
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("before", [None, "before"])
def test_full_disk_keeps_whole_records(
    tiny: Path, photos: Path, tmp_path: Path, kind: str, before: str | None
) -> None:
    (out := tmp_path / "out").mkdir()
    if before is not None:
        (out / f"o.{kind}").write_text(before)
    args: list[str | Path] = [COMMAND, tiny, *[photos] * 6, "-o", out / f"o.{kind}"]
    done = subprocess.run(args, capture_output=True, text=True, check=False, preexec_fn=limit_files)
    assert done.returncode == 2
    kept = count(out / f"o.{kind}")
    stopped, error = done.stderr.splitlines()
    assert stopped == f"Stopped: {kept} of 18 images done and kept."
    assert error == f"Error: {out / 'o'}.{kind}: File too large."
    assert 5 < kept < 18
    assert [path.name for path in out.iterdir()] == [f"o.{kind}"]


@pytest.mark.posix("limits the size of files")
@pytest.mark.parametrize("flag", ["o.parquet", "r.html", "folder"])
def test_full_disk_leaves_no_half_file(tiny: Path, photos: Path, tmp_path: Path, flag: str) -> None:
    if flag == "o.parquet":
        pytest.importorskip("pyarrow")
    Image.effect_noise((90, 90), 80).save(photos / "noise.png")
    out = tmp_path / "out"
    out.mkdir()
    option = {"r.html": "--report", "folder": "--annotate"}.get(flag, "-o")
    args: list[str | Path] = [COMMAND, tiny, *[photos] * 6, photos / "gone.jpg", option, out / flag]
    done = subprocess.run(args, capture_output=True, text=True, check=False, preexec_fn=limit_files)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {out / flag}")
    assert done.stderr.endswith(": File too large.\n")
    assert done.stderr.count("\n") == 1
    for left in out.rglob("*.*"):  # copies made before the disk was full are whole
        with Image.open(left) as image:
            image.load()
    assert [path.name for path in out.iterdir()] == (["folder"] if flag == "folder" else [])


@pytest.mark.parametrize("kind", KINDS)
def test_interrupt_keeps_whole_records(tiny: Path, photos: Path, tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"out.{kind}"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [COMMAND, tiny, "-", "-o", out, "--annotate", tmp_path / "copies"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as run:
        signal.signal(signal.SIGINT, before)
        assert run.stdin is not None
        assert run.stderr is not None
        for name in ("dark.png", "gone.jpg", "light.jpg"):
            print(photos / name, file=run.stdin, flush=True)
        end = time.monotonic() + 30
        while not list(tmp_path.glob("copies/**/light.jpg")) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        assert not out.exists(), "the name appears only when the file is complete"
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 130
        assert run.stderr.read() == "Interrupted: 3 images done and kept.\n"
    assert count(out) == 3
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "photos", "copies"}


@pytest.mark.parametrize("old", [None, '[{"path": "a.png"}]'])
def test_interrupt_before_the_first_record(tiny: Path, tmp_path: Path, old: str | None) -> None:
    """A new file is valid, and an old one with records stays."""
    out = tmp_path / "out.json"
    if old is not None:
        out.write_text(old)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [COMMAND, tiny, "-", "-o", out], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        signal.signal(signal.SIGINT, before)
        end = time.monotonic() + 30
        while not list(tmp_path.glob(".out.*.part.json")) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 130
    assert out.read_text() == (old or "[]\n")


@pytest.fixture
def python_handles_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def held_writes(interrupt: Interrupt, written: list[int], presses: int) -> None:
    with interrupt.held():
        written.append(1)
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        written.append(2)


@pytest.mark.usefixtures("python_handles_sigint")
@pytest.mark.parametrize(("presses", "expected"), [(1, [1, 2]), (2, [1])])
def test_ctrl_c_waits_for_the_record_and_a_second_one_does_not(
    presses: int, expected: list[int]
) -> None:
    written: list[int] = []
    with Interrupt() as interrupt:
        with pytest.raises(KeyboardInterrupt):
            held_writes(interrupt, written, presses)
        assert written == expected
        with pytest.raises(KeyboardInterrupt):  # not held: at once, as usual
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("python_handles_sigint")
def test_ignored_ctrl_c_stays_ignored() -> None:
    """A script's background job ignores it, or the terminal's Ctrl-C would end it too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_report_of_a_run(tiny: Path, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    result = invoke(tiny, photos, photos / "gone.jpg", "--report", page)
    assert result.exit_code == 1
    text = page.read_text()
    assert text.count('<li class="card"') == 3
    assert "gone.jpg: no such file." in text


def test_report_that_cannot_be_written_is_refused_first(
    tiny: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    result = invoke(tiny, photos, "--report", tmp_path / "file" / "r.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "r.html: cannot write there" in result.stderr


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (120, 600, 5.0, "120 of 600 images  20%  24.0/s  0:00:20 left"),
        (120, None, 5.0, "120 images  24.0/s"),
        (0, 600, 5.0, "0 of 600 images  0%  0.0/s"),
        (1, 100_000, 1.0, "1 of 100000 images  0%  1.0/s  27:46:39 left"),
    ],
)
def test_progress_line(done: int, total: int | None, seconds: float, text: str) -> None:
    assert line(done, total, seconds) == text


def test_progress_leaves_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numclip_runtime.app.progress.INTERVAL_S", 0.0)
    screen = io.StringIO()
    with Progress(screen, 20) as progress:
        for done in (9, 10, 20):
            progress.update(done)
    *_, last, shown, blank, rest = screen.getvalue().split("\r")
    assert (shown.strip() + rest, blank.strip()) == (shown.strip(), "")
    assert last.startswith("10 of 20 images  50%")
    assert len(blank) >= len(shown.rstrip())


def test_progress_is_quiet_in_a_pipe(tiny: Path, photos: Path, tmp_path: Path) -> None:
    args: list[str | Path] = [COMMAND, tiny, photos, "-o", tmp_path / "o.csv"]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_progress_on_a_terminal(tiny: Path, photos: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    args: list[str | Path] = [
        COMMAND,
        tiny,
        *[photos / "dark.png"] * 2000,
        "-o",
        tmp_path / "o.csv",
    ]
    with subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=theirs) as run:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # Linux's end of file for a terminal whose other side is closed
            pass
    os.close(ours)
    assert run.returncode == 0
    assert b" of 2000 images" in shown
    line, summary = shown.split(b"\r")[-3:-1]  # the last line is wiped before the summary
    assert line.strip() == b""
    assert summary.startswith(b"2000 images in ")
