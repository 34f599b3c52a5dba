"""Lists of paths on standard input, read as they come."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from numclip_runtime import UsageError
from numclip_runtime.app.readers import BLOCK, BackgroundReader, read_paths
from tests.runtime.conftest import invoke, records

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"


@pytest.mark.parametrize(
    ("content", "null", "paths"),
    [
        (b"a.jpg\nb c.jpg\n", False, ["a.jpg", "b c.jpg"]),
        (b"a.jpg\n\n\nlast", False, ["a.jpg", "last"]),
        (b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n", False, ["a.jpg", "b.jpg"]),
        (b"a\nb.jpg\0 c\r\0", True, ["a\nb.jpg", " c\r"]),
        (b"\xff.jpg\n", False, [os.fsdecode(b"\xff.jpg")]),
        (b"x" * (BLOCK - 3) + b"\nb.jpg\n", False, ["x" * (BLOCK - 3), "b.jpg"]),
        (b"", False, []),
    ],
)
def test_read_paths(content: bytes, null: bool, paths: list[str]) -> None:
    assert list(read_paths(io.BytesIO(content), null=null)) == paths


@pytest.mark.parametrize(
    ("content", "null", "message"),
    [
        (b"a.jpg\0b.jpg\0", False, "holds NUL characters; pipe in one path per line .*--null"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\n", False, "holds NUL characters"),
        (b"x" * (2 * BLOCK + 1), False, "no path ends within 65536 bytes"),
        (b"a\n" * BLOCK, True, "pipe in paths that end with NUL"),
    ],
)
def test_no_list(content: bytes, null: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(read_paths(io.BytesIO(content), null=null))


@pytest.mark.parametrize(("flag", "end"), [(None, b"\n"), ("-0", b"\0"), ("--null", b"\0")])
def test_list_beside_other_inputs(tiny: Path, photos: Path, flag: str | None, end: bytes) -> None:
    listed = [photos / "light.jpg", photos / "gone.jpg", photos / "sub"]
    stdin = b"".join(os.fsencode(path) + end for path in listed)
    flags = [flag] if flag else []
    result = invoke(tiny, photos / "dark.png", "-", photos / "sub", *flags, stdin=stdin)
    assert result.exit_code == 1
    got = [(Path(str(r["path"])).name, "error" in r) for r in records(result)]
    expected = [("dark.png", False), ("light.jpg", False), ("gone.jpg", True), ("sub", True)]
    assert got == [*expected, ("mid.PNG", False)]
    assert result.stderr == "2 of 5 images failed.\n"


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_empty_list_writes_nothing(tiny: Path, tmp_path: Path, kind: str) -> None:
    result = invoke(tiny, "-", "--format", kind, stdin=b"\n\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: -: no path came in on standard input.\n"
    assert invoke(tiny, "-", "-o", tmp_path / "out.json").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_closed_standard_input(tiny: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" "$1" - <&-', COMMAND, tiny], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: -: standard input is closed; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [(["-", "-"], "can be read once only"), (["a.jpg", "--null"], "--null is about the list")],
)
def test_wrong_use_of_lists(tiny: Path, args: list[str], message: str) -> None:
    result = invoke(tiny, *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_results_appear_while_the_list_still_grows(tiny: Path, photos: Path) -> None:
    command = [str(arg) for arg in (COMMAND, tiny, "-", "--batch-size", 4, "--workers", 3)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        for name in ("dark.png", "gone.mp4", "light.jpg"):  # answer comes before the next question
            print(photos / name, file=run.stdin, flush=True)
            assert json.loads(run.stdout.readline())["path"] == str(photos / name)
        run.stdin.close()
        assert run.stdout.read() == ""
    assert run.returncode == 1


@pytest.mark.posix("measures memory by getrusage")
def test_memory_stays_flat(tiny: Path, tmp_path: Path) -> None:
    """A list of 60,000 lines of 4 KiB (240 MB) raises the process's peak by less than 40 MB."""
    if sys.platform != "linux":
        pytest.skip("reads the peak in kilobytes, as Linux gives it")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    code = (
        "import resource, sys, io\n"
        "from numclip_runtime.app.inputs import open_inputs\n"
        "class Long(io.RawIOBase):\n"
        "    left = 60_000\n"
        "    def read(self, n=-1):\n"
        "        self.left -= 1\n"
        "        return b'x' * 4095 + b'\\n' if self.left >= 0 else b''\n"
        "sys.stdin = type('S', (), {'closed': False, 'buffer': type('B', (), {'raw': Long()})})\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "count = sum(1 for group in open_inputs(['-']).ready for _ in group)\n"
        "print(count, (peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 60_000
    assert grown < 40


def test_reader_raises_what_its_source_raised_after_the_items_before() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("unplugged")

    taken: list[int] = []
    items = (item for group in BackgroundReader(source()).ready() for item in group)
    with pytest.raises(OSError, match="unplugged"):
        taken.extend(items)
    assert taken == [0, 1, 2]


def test_reader_of_a_camera_drops_old_items() -> None:
    import threading

    shown = threading.Event()

    def source() -> Iterator[int]:
        yield from range(50)
        shown.set()
        yield 50

    reader = BackgroundReader(source(), capacity=1, newest_only=True)
    assert shown.wait(10)
    got = [item for group in reader.ready() for item in group]
    assert got[-1] == 50
    assert len(got) <= 2
