"""An output that is the model, an input, the list or another output is refused before any work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from numclip_runtime import UsageError
from numclip_runtime.files import refuse_overwriting, refuse_twice
from tests.runtime.conftest import invoke

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    shutil.copy(tiny, path := tmp_path / "m.onnx")
    return path


def refused(*args: object, stdin: str = "") -> str:
    result = invoke(*args, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


@pytest.mark.posix("makes links")
@pytest.mark.parametrize("flag", ["-o", "--report"])
def test_the_model(model: Path, photos: Path, flag: str) -> None:
    before = model.read_bytes()
    os.link(model, linked := model.with_name("m.html"))
    error = refused(model, photos, "--format", "csv", flag, linked)
    assert error == f"Error: {linked}: is also the model, {model}; give another name.\n"
    assert model.read_bytes() == before


@pytest.mark.posix("makes links")
def test_the_model_behind_a_link_and_another_path(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    (link := Path("out.jsonl")).symlink_to("photos/../m.onnx")
    assert "is also the model" in refused(model, photos, "-o", link)


def test_the_models_checksum(model: Path, photos: Path) -> None:
    (beside := model.with_name("m.onnx.sha256")).write_text("0" * 64)
    assert "is also the model" in refused(model, photos, "-o", beside, "--format", "csv")
    assert beside.read_text() == "0" * 64


def test_an_image_of_a_folder_and_one_of_a_list(model: Path, photos: Path) -> None:
    image = photos / "dark.png"
    before = image.read_bytes()
    args = ("-o", image, "--format", "csv")
    assert "is also an input" in refused(model, photos, *args)
    assert "has the name of a picture" in refused(model, "-", *args, stdin=f"{image}\n")
    assert image.read_bytes() == before


def test_the_list_on_standard_input(model: Path, photos: Path, tmp_path: Path) -> None:
    (paths := tmp_path / "list.txt").write_text(text := f"{photos / 'dark.png'}\n")
    with paths.open() as stdin:
        done = subprocess.run(
            [COMMAND, model, "-", "-o", paths, "--format", "csv"],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, paths.read_text()) == (2, text)
    assert done.stderr.endswith("is also the list, on standard input; give another name.\n")


@pytest.mark.parametrize("exists", [True, False])
def test_two_outputs(model: Path, photos: Path, tmp_path: Path, exists: bool) -> None:
    page = tmp_path / "a.html"
    if exists:
        page.write_text("old")
    other = tmp_path / "photos" / ".." / "a.html"
    error = refused(model, photos, "-o", page, "--report", other, "--format", "csv")
    assert error == f"Error: {other}: --output and --report name the same file.\n"
    error = refused(model, photos, "-o", tmp_path / "b.csv", "--annotate", tmp_path / "b.csv")
    assert "--output and --annotate name the same file" in error
    assert page.exists() == exists
    assert not (tmp_path / "b.csv").exists()


def test_names_that_differ_in_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"--output": tmp_path / "a.html", "--report": tmp_path / "A.HTML"}
    refuse_twice(outputs)  # on this file system they are two
    monkeypatch.setattr(Path, "exists", lambda path: path.name.swapcase()[:3] == ".A.")
    with pytest.raises(UsageError, match="name the same file"):
        refuse_twice(outputs)


def test_a_file_that_is_none_of_them_may_be_replaced(tmp_path: Path) -> None:
    (old := tmp_path / "old").write_text("old")
    refuse_overwriting(old, [tmp_path / "gone", tmp_path, "a\0b", 0], "an input")
