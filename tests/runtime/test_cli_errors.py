"""`numclip-run` on bad input: one line, exit code 2, and no file left behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from numclip_runtime import GpuError, MissingDependencyError, Prediction, Predictor, load
from numclip_runtime.app.cli import main


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ")
    assert result.output.endswith(".\n")
    assert result.output.count("\n") == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.onnx", None, "none.onnx: no such file; export one with `numclip-export"),
        ("best.pt", b"PK", "best.pt: is a checkpoint, not an exported model; export"),
        ("text.onnx", b"hello", "text.onnx: not an ONNX model, or a damaged one"),
        ("empty.onnx", b"", "empty.onnx: "),
    ],
)
def test_bad_model(
    tmp_path: Path, photos: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_one_line(invoke(tmp_path / name, photos), message)


def test_onnx_file_of_others(foreign: Path, photos: Path) -> None:
    assert_one_line(invoke(foreign, photos), "foreign.onnx: holds no numclip metadata")


def test_folder_as_model(photos: Path) -> None:
    assert_one_line(invoke(photos, photos), "is a folder; give the model file inside it")


def test_missing_onnxruntime(tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError):
        load(tiny)
    result = invoke(tiny, photos)
    assert result.exit_code == 2
    assert result.output.startswith("Error: onnxruntime is not installed")
    assert result.output.endswith("pip install 'numclip[cpu]'\n")


def test_empty_folder(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert_one_line(invoke(tiny, tmp_path), f"{tmp_path}: no images in this folder (looked for .")


def test_pattern_without_match(tiny: Path, photos: Path) -> None:
    assert_one_line(invoke(tiny, photos / "*.tiff"), "*.tiff: the pattern matches no file")


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("out.xlsx", [], "out.xlsx: cannot tell the format from this name; use .json"),
        ("out", [], "cannot tell the format"),
        ("gone/out", [], "cannot tell the format"),
        ("photos/notes.txt/out.csv", [], "cannot write there (Not a directory)"),
    ],
)
def test_bad_output(
    tiny: Path, photos: Path, tmp_path: Path, name: str, flags: list[str], message: str
) -> None:
    assert_one_line(invoke(tiny, photos, "-o", tmp_path / name, *flags), message)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.posix("makes a pipe")
def test_an_output_that_is_no_file_stays(tiny: Path, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # stands for /dev/null, which must not be replaced
    result = invoke(tiny, photos, "-o", tmp_path / "fifo", "--format", "csv")
    assert_one_line(result, "fifo: is not a regular file; give a file name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "photos"]
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize(
    "args", [[], ["m.onnx"], ["m.onnx", "a.jpg", "--batch-size", "0"], ["m", "a", "--format", "x"]]
)
def test_wrong_use(args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Usage: " in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{photos}/dark.png {tiny}", "dark.png: is a picture; the model comes first: "),
        ("{photos} {tiny}", "photos: is a folder; the model comes first: "),
        ("list.csv {tiny}", "list.csv: is a table or list; the model comes first: "),
        ("{photos}/dark.png", "dark.png: is a picture; the model comes first: "),
        ("list.csv {photos}", "list.csv: is a table or list, not a model, expected a .onnx or"),
        ("{tiny} ftp://a.org/b.jpg", "ftp://a.org/b.jpg: ftp:// is not read (but s3:// "),
        ("{tiny} {photos} --every 10", "--every is about videos and cameras, and no input is one"),
    ],
)
def test_swapped_and_useless_words(tiny: Path, photos: Path, words: str, message: str) -> None:
    (photos / "list.csv").write_text("path,label\n")
    args = words.format(tiny=tiny, photos=photos).replace("list.csv", str(photos / "list.csv"))
    assert_one_line(invoke(*args.split()), message)


@pytest.mark.parametrize("named", [["--model", "{tiny}", "--images", "{photos}"], ["{tiny}"]])
def test_model_and_images_by_options(tiny: Path, photos: Path, named: list[str]) -> None:
    args = [word.format(tiny=tiny, photos=photos) for word in named]
    by_options = invoke(*args, *([] if "--images" in named else ["--data", photos]))
    assert by_options.stdout == invoke(tiny, photos).stdout
    assert by_options.exit_code == 0


def test_an_output_in_a_folder_that_is_missing(tiny: Path, photos: Path, tmp_path: Path) -> None:
    """A failed run leaves no folder behind."""
    new = tmp_path / "new" / "deep"
    assert invoke(tiny, "none.jpg", "-o", new / "a.csv").exit_code == 1
    assert [path.name for path in new.iterdir()] == ["a.csv"]
    for output, kind, name in ((f"{new}/", [], "jsonl"), (new, ["--format", "csv"], "csv")):
        assert invoke(tiny, photos, "-o", output, *kind).exit_code == 0
        assert (new / f"records.{name}").stat().st_size > 0
    assert invoke(tiny, photos / "*.gif", "-o", tmp_path / "other" / "a.csv").exit_code == 2
    assert invoke(tiny, photos, "-o", tmp_path / "other/a.csv", "--sha256", 64 * "0").exit_code == 2
    assert not (tmp_path / "other").exists()


Break = Callable[[BaseException], None]


@pytest.fixture
def break_after_one(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Return a function that makes the second image of every stream raise an error."""

    def install(error: BaseException) -> None:
        def stream(self: Predictor, images: Iterable[str], **options: Any) -> Iterator[Prediction]:
            yield self.predict(next(iter(images)))
            raise error

        monkeypatch.setattr(Predictor, "stream", stream)

    return install


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
        (GpuError("No space left on device."), "No space left on device."),
        (MemoryError(), "not enough memory."),
    ],
    ids=repr,
)
def test_what_stops_a_run_half_way_keeps_what_is_done(
    tiny: Path,
    photos: Path,
    tmp_path: Path,
    break_after_one: Break,
    error: Exception,
    sentence: str,
) -> None:
    break_after_one(error)
    out = tmp_path / "out.csv"
    result = invoke(tiny, photos, "-o", out, "--report", tmp_path / "r.html")
    assert result.exit_code == 2
    assert result.output == f"Stopped: 1 of 3 images done and kept.\nError: {sentence}\n"
    assert len(out.read_text().splitlines()) == 2
    # where disk and memory are not full, also the report of what is done
    names = {"photos", "out.csv"} | ({"r.html"} if isinstance(error, GpuError) else set())
    assert {path.name for path in tmp_path.iterdir()} == names


def test_what_stops_a_run_before_the_first_record_leaves_nothing_behind(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object, **__: object) -> Iterator[Prediction]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Predictor, "stream", stream)
    (out := tmp_path / "out.csv").write_text("before")
    assert_one_line(invoke(tiny, photos, "-o", out), "No space left on device")
    assert out.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "photos"}


def test_our_own_bug_is_not_hidden_and_leaves_nothing_behind(
    tiny: Path, photos: Path, tmp_path: Path, break_after_one: Break
) -> None:
    break_after_one(RuntimeError("bug"))
    result = invoke(tiny, photos, "-o", tmp_path / "out.json")
    assert isinstance(result.exception, RuntimeError)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_interrupt_keeps_what_is_done(
    tiny: Path, photos: Path, tmp_path: Path, break_after_one: Break
) -> None:
    break_after_one(KeyboardInterrupt())
    result = invoke(tiny, photos, "-o", tmp_path / "out.json")
    assert result.exit_code == 130
    assert result.output == "Interrupted: 1 of 3 images done and kept.\n"
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


def test_interrupt_while_the_model_loads(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: click turned it into "Aborted!" and exit code 1, which means failed images."""

    def interrupted(*_: object, **__: object) -> Predictor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "open", interrupted)
    result = invoke(tiny, photos, "-o", tmp_path / "out.json")
    assert (result.exit_code, result.output) == (130, "Interrupted.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
@pytest.mark.parametrize("flags", [[], ["--format", "csv"], ["--format", "table"]])
def test_closed_standard_output(tiny: Path, photos: Path, flags: list[str]) -> None:
    """Found: `>&-` ended in a traceback."""
    command = [Path(sysconfig.get_path("scripts")) / "numclip-run", tiny, photos, *flags]
    done = subprocess.run(
        ["sh", "-c", shlex.join(map(str, command)) + " >&-"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    message = "Error: standard output is closed; name a file with --output.\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_a_report_never_replaces_a_picture(tiny: Path, photos: Path) -> None:
    """`--report *.jpg` takes the first picture for the report's name."""
    before = (photos / "light.jpg").read_bytes()
    result = invoke(tiny, "--report", photos / "light.jpg", photos / "dark.png")
    assert_one_line(result, "light.jpg: the report is a page; give a name with .html")
    assert (photos / "light.jpg").read_bytes() == before


def test_suffix_in_capitals(tiny: Path, photos: Path, tmp_path: Path) -> None:
    assert invoke(tiny, photos, "-o", tmp_path / "OUT.CSV").exit_code == 0
    assert (tmp_path / "OUT.CSV").read_text().startswith("path,")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_is_an_error(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Found: NaN was written into JSON, which then no other program reads."""

    def stream(self: Predictor, images: Iterable[str], **_: object) -> Iterator[Prediction]:
        for image in images:
            yield dataclasses.replace(self.predict(image), value=value)

    monkeypatch.setattr(Predictor, "stream", stream)
    result = invoke(tiny, photos / "dark.png", "--format", "jsonl")
    record = json.loads(result.stdout.splitlines()[0])
    assert result.exit_code == 1
    assert record["error"] == f"{photos / 'dark.png'}: the model gives no number, but {value}."
