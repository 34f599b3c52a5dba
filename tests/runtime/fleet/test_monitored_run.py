"""`numclip-run --monitor`: a verdict in a file, a note when it trips, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime.monitor.monitor import Monitor
from tests.runtime.conftest import invoke, records


def pictures(folder: Path, count: int, shade: float, *, seed: int) -> Path:
    """Write pictures of about one shade, each with a texture of its own."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.normal(rng.normal(shade, 8), 20, (16, 16, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("usual") / "a", 60, 120, seed=0)


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("bright") / "b", 30, 180, seed=1)


@pytest.fixture
def reference(tiny: Path, usual: Path, tmp_path: Path) -> Path:
    path = tmp_path / "reference.json"
    assert invoke(tiny, usual, "--write-reference", path).exit_code == 0
    return path


def test_a_change_is_noted_once_and_the_records_are_the_same(
    tiny: Path, usual: Path, bright: Path, reference: Path, tmp_path: Path
) -> None:
    file = tmp_path / "monitor.json"
    options = ("--monitor", file, "--monitor-reference", reference)
    first = invoke(tiny, usual, *options)
    assert (first.exit_code, "Note:" in first.stderr) == (0, False)
    assert "Monitor: no change in 60 images" in first.stderr
    second = invoke(tiny, bright, *options)
    assert second.exit_code == 0
    assert second.stderr.count("Note: the images have changed:") == 1
    assert records(second) == records(invoke(tiny, bright))
    content = read(file)
    assert content["moved"] is True
    assert content["verdict"]["images"] == 90  # the file was gone on with
    assert content["verdict"]["change"]["noticed"] > 60
    third = invoke(tiny, usual, *options)
    assert "Note:" not in third.stderr
    assert "the images have changed" in third.stderr


def test_failed_images_do_not_count(
    tiny: Path, usual: Path, reference: Path, tmp_path: Path
) -> None:
    file, broken = tmp_path / "m.json", tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    done = invoke(tiny, usual, broken, "--monitor", file, "--monitor-reference", reference)
    assert done.exit_code == 1
    assert read(file)["verdict"]["images"] == 60


def test_without_the_option_nothing_is_computed(
    tiny: Path, usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Monitor, "add", None)
    from numclip_runtime.app.monitoring import observed

    monkeypatch.setattr(observed, "input_statistics", None)
    assert invoke(tiny, usual).exit_code == 0


def test_a_model_without_a_reference_says_how_to_get_one(
    tiny: Path, usual: Path, tmp_path: Path
) -> None:
    done = invoke(tiny, usual, "--monitor", tmp_path / "m.json")
    assert done.exit_code == 2
    assert "--write-reference reference.json" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "m.json").exists()


def test_too_few_images_for_a_reference(tiny: Path, photos: Path, tmp_path: Path) -> None:
    done = invoke(tiny, photos, "--write-reference", tmp_path / "r.json")
    assert (done.exit_code, len(records(done))) == (2, 3)
    assert "needs 20 images at least, and 3 counted" in done.stderr
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("shopping list", "is not a file of --monitor"),
        ('{"format": 2}', "has no format 1"),
        ('{"format": 1}', "missing field"),
    ],
)
def test_another_file_is_not_overwritten(
    tiny: Path, usual: Path, reference: Path, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "list.txt"
    file.write_text(content)
    done = invoke(tiny, usual, "--monitor", file, "--monitor-reference", reference)
    assert (done.exit_code, file.read_text()) == (2, content)
    assert message in done.stderr


def test_another_model_or_reference_is_refused(
    tiny: Path, usual: Path, bright: Path, reference: Path, tmp_path: Path
) -> None:
    file, copy = tmp_path / "m.json", tmp_path / "other.onnx"
    assert invoke(tiny, usual, "--monitor", file, "--monitor-reference", reference).exit_code == 0
    other = tmp_path / "other.json"
    assert invoke(tiny, bright, "--write-reference", other).exit_code == 0
    done = invoke(tiny, usual, "--monitor", file, "--monitor-reference", other)
    assert (done.exit_code, "compares with another reference" in done.stderr) == (2, True)
    done = invoke(
        tiny, usual, "--monitor", file, "--monitor-reference", reference, "--monitor-every", 3
    )
    assert (done.exit_code, "counts one of 1 images" in done.stderr) == (2, True)
    content = read(reference)
    content["model"]["sha256"] = "0" * 64
    other.write_text(json.dumps(content))
    done = invoke(tiny, usual, "--monitor", file, "--monitor-reference", other)
    assert (done.exit_code, "is the reference of another model" in done.stderr) == (2, True)
    content = read(file)
    content["model"] = {"name": "old.onnx", "sha256": "1" * 64}
    file.write_text(json.dumps(content))
    done = invoke(tiny, usual, "--monitor", file, "--monitor-reference", reference)
    assert (done.exit_code, "follows another model, old.onnx" in done.stderr) == (2, True)
    assert not copy.exists()


def test_a_damaged_state_is_refused(
    tiny: Path, usual: Path, reference: Path, tmp_path: Path
) -> None:
    file = tmp_path / "m.json"
    options = ("--monitor", file, "--monitor-reference", reference)
    assert invoke(tiny, usual, *options).exit_code == 0
    content = read(file)
    content["state"]["seen"] = content["state"]["seen"][1:]
    file.write_text(json.dumps(content))
    done = invoke(tiny, usual, *options)
    assert (done.exit_code, "does not fit the reference" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--monitor-every", 2), "--monitor-every is for --monitor"),
        (("--monitor-reference", "r.json"), "--monitor-reference is for --monitor"),
        (("--monitor", "a.json", "--write-reference", "a.json"), "name the same file"),
    ],
)
def test_wrong_use_is_one_sentence(
    tiny: Path,
    usual: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(tiny, usual, *options)
    assert done.exit_code == 2
    assert message in done.stderr
