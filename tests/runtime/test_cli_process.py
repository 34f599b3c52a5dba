"""The installed command `numclip-run` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from numclip_runtime.images.decode import load_rgb

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [str(arg) for arg in (COMMAND, *args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_records_on_stdout_summary_on_stderr(tiny: Path, photos: Path) -> None:
    done = run(tiny, photos, photos / "gone.jpg")
    assert (done.returncode, done.stderr) == (1, "1 of 4 images failed.\n")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record.get("bin") for record in records] == ["dark", "bright", "medium", None]


def test_all_read(tiny: Path, photos: Path, tmp_path: Path) -> None:
    done = run(tiny, photos, "-o", tmp_path / "out.csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def test_a_picture_whose_metadata_are_cut_off_is_read_without_a_warning(
    tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "odd.tif"
    out.write_bytes(tiff_with_a_tag_beyond_its_end())
    assert run(tiny, out, "-o", tmp_path / "out.csv").stderr == ""
    with pytest.warns(UserWarning, match="Truncated File Read"):
        load_rgb(out)  # Pillow would warn


def tiff_with_a_tag_beyond_its_end() -> bytes:
    """Return 8 x 8 grey pixels, and the name of a program that is missing."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 305, 2, 100, 1 << 20))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + 64) + bytes([60]) * 64 + directory


def test_bad_model(foreign: Path, photos: Path) -> None:
    done = run(foreign, photos)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {foreign}: holds no numclip metadata")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("to_file", [False, True])
def test_path_that_is_no_utf8(tiny: Path, tmp_path: Path, to_file: bool) -> None:
    """Found: one such name stopped a whole run with UnicodeEncodeError."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    try:
        Image.new("L", (8, 8)).save(path, "PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    out = tmp_path / "out.jsonl"
    done = run(tiny, tmp_path, *(["-o", out] if to_file else []))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(out.read_text() if to_file else done.stdout)["path"] == path


def test_closed_pipe_is_quiet(tiny: Path, photos: Path) -> None:
    args = [COMMAND, tiny, *[photos / "dark.png"] * 3000]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert json.loads(run.stdout.readline())["bin"] == "dark"
        run.stdout.close()
        assert run.stderr.read() == ""


def test_interrupt(tiny: Path, photos: Path) -> None:
    # Output beyond the pipe's 64 KiB blocks the command until we read: it cannot be done already.
    args = [COMMAND, tiny, *[photos / "dark.png"] * 3000]
    # A job in the background of a script inherits "ignore SIGINT"; a handler of ours does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        signal.signal(signal.SIGINT, before)
        assert run.stdout is not None
        assert run.stderr is not None
        first = run.stdout.readline()
        run.send_signal(signal.SIGINT)
        rest, errors = run.stdout.read(), run.stderr.read()
    assert run.returncode == 130
    assert errors.endswith(" of 3000 images done and kept.\n")
    assert errors.count("\n") == 1
    lines = [json.loads(line) for line in (first + rest).splitlines()]
    assert 1 <= len(lines) < 3000
