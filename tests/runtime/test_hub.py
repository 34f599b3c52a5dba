"""Models of a hub, from a stand-in on this machine that answers as huggingface.co does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from numclip_runtime import ModelError, read_metadata
from numclip_runtime.model_files.names import model_path
from tests.runtime.standin_hub import Hub, Repository, standin_hub

pytest.importorskip("huggingface_hub")
TINY = Path(__file__).parents[1] / "data" / "tiny.onnx"
COMMIT = "a" * 40
FILES = {"model.onnx": TINY.read_bytes(), "more/small.onnx": TINY.read_bytes()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve owner/name with one commit, which the tag v1 names."""
    with standin_hub() as hub:
        hub.repositories["owner/name"] = Repository(False, {COMMIT: FILES}, {"v1": COMMIT})
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.mark.parametrize("place", ["hf://owner/name", "hf://owner/name/more/small.onnx"])
@pytest.mark.parametrize("revision", [COMMIT, "v1"])
def test_a_file_of_a_revision(hub: Hub, place: str, revision: str) -> None:
    found = model_path(f"{place}@{revision}")
    assert found.read_bytes() == TINY.read_bytes()
    assert COMMIT in found.parts
    assert read_metadata(f"{place}@{revision}") == read_metadata(TINY)


def test_a_commit_in_the_cache_needs_no_network(hub: Hub) -> None:
    first = model_path(f"hf://owner/name@{COMMIT}")
    before = len(hub.asked)
    assert before >= 1
    assert model_path(f"hf://owner/name@{COMMIT}") == first
    assert len(hub.asked) == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("hf://owner/other@v1", "no such repository, or it is private"),
        ("hf://owner/name@v2", "the repository has no revision v2"),
        ("hf://owner/name/x.onnx@v1", "the repository has no file x.onnx at this revision"),
    ],
)
def test_what_is_not_there(hub: Hub, place: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{place}: .*{message}"):
        model_path(place)


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again for 23 s
    with pytest.raises(ModelError, match=r"^hf://owner/name@v1: .*cannot be reached"):
        model_path("hf://owner/name@v1")
