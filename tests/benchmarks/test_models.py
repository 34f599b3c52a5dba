from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench.models import cached, full_size, model_cache
from numclip_runtime import MissingDependencyError, UsageError


def test_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    for _ in range(2):
        folder = cached("name", make, cache=tmp_path / "deep" / "cache")
        assert (folder / "file").read_text() == "content"
    assert len(made) == 1
    assert made[0] != folder
    assert [path.name for path in folder.parent.iterdir()] == ["name"]


def test_interrupted_making_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("name", make, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_makers_wins(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "by").write_text("slow")
        (tmp_path / "name").mkdir()
        (tmp_path / "name" / "by").write_text("fast")

    assert (cached("name", make, cache=tmp_path) / "by").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_place_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_cache() == tmp_path / "numclip" / "benchmarks"
    (tmp_path / "numclip").write_text("in the way")
    with pytest.raises(UsageError, match="set XDG_CACHE_HOME"):
        cached("name", lambda _: None)


def test_without_the_exporter_one_sentence_says_what_to_give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("benchmarks.bench.models.version", missing)
    with pytest.raises(MissingDependencyError, match="give an exported model, or: pip install"):
        full_size("ViT-B-32")
