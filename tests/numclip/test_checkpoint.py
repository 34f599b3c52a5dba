"""Checkpoints: bit-exact round trip, and refusal of all else without executing anything."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch

from numclip.checkpoint import Checkpoint, load_checkpoint, package_versions, save_checkpoint
from numclip_runtime import ModelError, UsageError, __version__
from tests.export.disk import full_disk
from tests.numclip.tiny import TASK, TOWERS, images_of, spec_of, tiny_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.pt"
    save_checkpoint(path, Checkpoint(tiny_model(), spec_of("vit"), {"mae": 1.5}, "val.csv"))
    return path


@pytest.mark.parametrize("tower", list(TOWERS))
def test_round_trip_is_bit_exact(tmp_path: Path, tower: str) -> None:
    task = replace(TASK, label_offset=3.25)
    model = tiny_model(tower, task=task, regressor="bounded", adapter_ratio=0.3)
    places = str(tmp_path / "val.csv"), str(tmp_path.parent / "photos")
    before = Checkpoint(model.train(), spec_of(tower), {"mae": 0.1, "rmse": 0.2}, *places)
    save_checkpoint(tmp_path / "a.pt", before)
    after = load_checkpoint(tmp_path / "a.pt")
    assert (after.task, after.preprocessing) == (task, before.preprocessing)
    assert after.metrics == before.metrics
    assert (after.validation_csv, after.validation_root) == places
    assert str(tmp_path).encode() not in (tmp_path / "a.pt").read_bytes()  # stored as relative
    assert after.model.config == model.config
    assert set(after.versions) == {"numclip", "torch", "open_clip_torch"}
    assert after.metadata.versions == after.versions
    assert not after.model.training
    expected, state = model.state_dict(), after.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    images = images_of(tower, 2)
    with torch.no_grad():
        for got, want in zip(after.model(images), model.eval()(images), strict=True):
            assert torch.equal(got, want)
    assert os.listdir(tmp_path) == ["a.pt"]  # noqa: PTH208


def test_the_version_needs_no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = version

    def without_numclip(name: str) -> str:
        if name == "numclip":  # its source on the path, as on a machine without a network
            raise PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("numclip.checkpoint.version", without_numclip)
    assert package_versions("torch") == {"numclip": __version__, "torch": installed("torch")}


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("size", [0, 100, 5_000, 20_000])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, suffix: str, size: int) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as caught, full_disk(size):
        save_checkpoint(path, Checkpoint(tiny_model(), spec_of("vit")))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, "old")]


class Trap:
    """Touches a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("plain", [False, True])
def test_pickle_that_executes_is_refused(saved: Path, tmp_path: Path, plain: bool) -> None:
    mark = tmp_path / "executed"
    content = torch.load(saved, weights_only=True) | {"metrics": Trap(mark)}
    if plain:
        saved.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, saved)
    with pytest.raises(ModelError, match=r"a\.pt: refused, not plain weights and settings \("):
        load_checkpoint(saved)
    assert not mark.exists()
    torch.load(saved, weights_only=False) if not plain else pickle.loads(saved.read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"a\.pt: (not a readable checkpoint|refused)"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "not a numclip checkpoint; make one with `numclip-train`"),
        ([1, 2], "not a numclip checkpoint"),
        (torch.zeros(3), "not a numclip checkpoint"),
        ({"format": "numclip-checkpoint"}, "checkpoint schema None is unknown"),
        ({"format": "numclip-checkpoint", "schema_version": 2}, "checkpoint schema 2 is unknown"),
    ],
)
def test_other_content(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(ModelError, match=rf"b\.pt: .*{message}"):
        load_checkpoint(tmp_path / "b.pt")


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(name)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "missing weight": lambda content: content["state_dict"].pop("logit_scale"),
    "other shape": lambda content: content["state_dict"].update(logit_scale=torch.zeros(2)),
    "unknown weight": lambda content: content["state_dict"].update(more=torch.zeros(2)),
    "other architecture": lambda content: content["config"].update(clip=TOWERS["resnet"]),
    "no architecture": lambda content: content["config"].update(clip={}),
    "unknown setting": lambda content: content["config"].update(depth=3),
    "another task": lambda content: content["task"].update(phrases=["a", "b"]),
    "bad preprocessing": lambda content: content["preprocessing"].update(crop=0),
    "no preprocessing": lambda content: content.update(preprocessing=None),
    "weights in a list": lambda content: content.update(state_dict=[1]),
    "no state_dict": drop("state_dict"),
    "no task": drop("task"),
    "no metrics": drop("metrics"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_content_that_does_not_fit(saved: Path, change: str) -> None:
    content = torch.load(saved, weights_only=True)
    CHANGES[change](content)
    torch.save(content, saved)
    with pytest.raises(ModelError, match=r"a\.pt: this checkpoint does not fit its own config: "):
        load_checkpoint(saved)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pt: no such file"):
        load_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(ModelError, match="no such file"):
        load_checkpoint(tmp_path)
    checkpoint = Checkpoint(tiny_model(), spec_of("vit"))
    (tmp_path / "file").touch()
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "a.pt", "cannot write")):
        with pytest.raises(UsageError, match=message):
            save_checkpoint(path, checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
