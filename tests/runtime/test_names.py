"""A model's name: a file, a packaged model, or a place on a hub, the same wherever it is given."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from numclip_runtime import ModelError, UsageError, load, read_metadata
from numclip_runtime.app.cli import main
from numclip_runtime.app.doctor.command import diagnose
from numclip_runtime.errors import MissingDependencyError
from numclip_runtime.model_files import names
from numclip_runtime.model_files.names import model_path

TINY = Path(__file__).parents[1] / "data" / "tiny.onnx"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of the only packaged model, "tiny"; the current folder is empty."""
    folder, current = tmp_path / "packaged", tmp_path / "current"
    folder.mkdir()
    current.mkdir()
    monkeypatch.setattr(names, "_FOLDER", folder)
    monkeypatch.chdir(current)
    return Path(shutil.copy(TINY, folder / "tiny.onnx"))


def test_paths_stay_what_they_are(packaged: Path) -> None:
    for name in ("a.onnx", "a/tiny", "tiny.onnx", "no such model.plan", "C:tiny"):
        assert model_path(name) == Path(name)
        assert model_path(Path(name)) == Path(name)


def test_a_packaged_name_is_never_a_file_of_the_current_folder(packaged: Path) -> None:
    Path("tiny").write_bytes(b"something else")
    assert model_path("tiny") == model_path(Path("tiny")) == packaged


def test_an_unknown_name_is_answered_with_the_names(packaged: Path) -> None:
    message = "^tinny: neither a file nor a packaged model; packaged are tiny.$"
    with pytest.raises(ModelError, match=message):
        load("tinny")
    with pytest.raises(ModelError, match=message):
        read_metadata("tinny")
    with pytest.raises(ModelError, match=message):
        diagnose(Path("tinny"))
    Path("tinny").mkdir()
    with pytest.raises(ModelError, match="tinny: is a folder"):
        load("tinny")


def test_every_way_in_takes_the_name(packaged: Path) -> None:
    pytest.importorskip("onnxruntime")
    expected = read_metadata(TINY).task
    assert read_metadata("tiny").task == expected
    with load("tiny") as predictor:
        assert predictor.metadata.task == expected
    found = diagnose(Path("tiny"))
    assert (found.packaged_models, found.can_run) == (["tiny"], True)
    Image.new("RGB", (9, 7)).save("grey.png")
    done = CliRunner().invoke(main, ["tiny", "grey.png"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("hf://owner", "not the name of a model on a hub, which is hf://OWNER/NAME@REVISION"),
        ("hf://owner/../x@1", "not the name of a model on a hub"),
        ("hf://owner/name/x.pt@1", "only ONNX files are loaded from a hub"),
        ("hf://owner/name/x.plan@1", "only ONNX files are loaded from a hub"),
        ("hf://owner/name", "give its commit .*: hf://owner/name@COMMIT"),
    ],
)
def test_incomplete_places_on_a_hub_are_refused_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name in (place, Path(place)):
        with pytest.raises(UsageError, match=f"^hf://owner.*{message}"):
            load(name)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'numclip\[hub\]'"):
        load("hf://owner/name@main")
