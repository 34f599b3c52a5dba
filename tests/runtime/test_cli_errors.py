"""`numclip-run` on bad input: one line, exit code 2, and no file left behind."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from numclip_runtime import MissingDependencyError, Prediction, Predictor, load
from numclip_runtime.cli import main


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
        ("best.pt", b"PK", "best.pt: unknown kind of model, expected a"),
        ("text.onnx", b"hello", "text.onnx: not a model that onnxruntime can load"),
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
        ("gone/out.csv", [], "out.csv: cannot write there (No such file or directory)"),
        ("photos/notes.txt/out.csv", [], "cannot write there (Not a directory)"),
        ("photos", ["--format", "csv"], "photos: is a folder; give a file name"),
        ("fifo", ["--format", "csv"], "fifo: is not a regular file; give a file name"),
    ],
)
def test_bad_output(
    tiny: Path, photos: Path, tmp_path: Path, name: str, flags: list[str], message: str
) -> None:
    os.mkfifo(tmp_path / "fifo")  # stands for /dev/null, which must not be replaced
    assert_one_line(invoke(tiny, photos, "-o", tmp_path / name, *flags), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "photos"]
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize(
    "args", [[], ["m.onnx"], ["m.onnx", "a.jpg", "--batch-size", "0"], ["m", "a", "--format", "x"]]
)
def test_wrong_use(args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Usage: " in result.output


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


@pytest.mark.parametrize("before", [None, "kept"])
def test_full_disk_leaves_nothing_behind(
    tiny: Path, photos: Path, tmp_path: Path, break_after_one: Break, before: str | None
) -> None:
    break_after_one(OSError(errno.ENOSPC, "No space left on device"))
    out = tmp_path / "out.csv"
    if before is not None:
        out.write_text(before)
    assert_one_line(invoke(tiny, photos, "-o", out), "No space left on device")
    assert (out.read_text() if out.exists() else None) == before
    assert {path.name for path in tmp_path.iterdir()} - {"out.csv"} == {"photos"}


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
