"""`numclip-train` and its data: options, messages, one true run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from numclip.cli.train import main
from numclip.data.dataset import ImageDataset
from numclip.data.samples import Sample
from numclip.tasks import load_task, preset_names

CLIP = """{
  "embed_dim": 8, "quick_gelu": true,
  "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 64},
  "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with 20 images, list.txt of two annotators each, and clip.json."""
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    lines = [f"{i}.png {i % 5 + 1} {min(i % 5 + 2, 5)}.0" for i in range(20)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (tmp_path / "clip.json").write_text(CLIP)
    return tmp_path


def train(folder: Path, *flags: str) -> Result:
    places = ("--train", str(folder / "list.txt"), "-o", str(folder / "c.pt"))
    model = ("--backbone", str(folder / "clip.json"), "--epochs", "1", "--workers", "0")
    return CliRunner().invoke(main, [*places, *model, *flags])


@pytest.mark.filterwarnings("ignore")  # Lightning's own deprecations
def test_list_to_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []

    class Spy(ImageDataset):
        def __init__(self, *args: Any, draw: bool = False, **more: Any) -> None:
            draws.append(draw)
            super().__init__(*args, draw=draw, **more)

    monkeypatch.setattr("numclip.training.fit.ImageDataset", Spy)
    test = ("--test", str(folder / "list.txt"))
    result = train(folder, "--task", "aesthetics", "--val-share", "0.2", *test)
    assert result.exit_code == 0, result.output
    assert "train: 15 images, labels 2 to 5, 15 with several annotators\n" in result.stdout
    assert "unacceptable  1           0   0.0%" in result.stdout
    assert "test MAE " in result.stdout
    assert draws == [True, False]  # training draws annotations, validation does not
    assert "Warning: 15 of 20 test images are in train as well" in result.stderr
    rows = (folder / "c.val.csv").read_text().splitlines()
    assert len(rows) == 1 + 5  # of medians 2, 3, 4 one each, of 5 two
    content = torch.load(folder / "c.pt", weights_only=True)
    assert content["validation_csv"] == "c.val.csv"  # relative to the checkpoint
    assert content["task"]["prediction"] == "class"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "age"], "give either --val with images of other people"),
        (["--task", "age", "--val-share", "1.5"], "'--val-share': 1.5 is not in the range"),
        (["--val-share", "0.2"], "no task: give --task"),
        (
            ["--task", "historical", "--label-offset", "0", "--val-share", "0.2"],
            "5 is outside the task's classes 0 to 4; correct it, give --label-offset 1 for a list "
            "of 1 to 5, or widen bin_edges",
        ),
        (["--task", "age", "--val-share", "0.2", "--root", "/nowhere"], "20 of 20 images do not"),
        (["--task", "age", "--val-share", "0.2", "--group-column", "id"], "--group-column needs"),
        (["--task", "age", "--val", "v.csv", "--shots", "0"], "0 is not in the range x>=1"),
        (["--task", "age", "--bin-edges", "0,x"], "--bin-edges: 'x' is not a number"),
    ],
)
def test_wrong_use(flags: list[str], message: str, folder: Path) -> None:
    result = train(folder, *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder / "c.pt").exists()


def test_broken_image_and_its_two_checks(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "0.jpg")
    data = (folder / "0.jpg").read_bytes()
    (folder / "0.png").write_bytes(data[: len(data) // 2])  # a JPEG with a sound header
    common = ("--task", "aesthetics", "--val-share", "0.2")
    for flags in ((), ("--no-check-images",)):
        assert "broken:" not in train(folder, *common, *flags, "--restart").stderr
    result = train(folder, *common, "--check-images")
    assert result.exit_code == 2
    assert "1 of 20 train images are broken:\n  " in result.stderr
    skipped = train(folder, *common, "--check-images", "--skip-broken")
    assert "Warning: 1 of 20 train images are broken, left out." in skipped.stderr


def test_help_names_every_preset() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert f"Preset ({', '.join(preset_names())}) or a .toml file" in text


def test_training_draws_annotations_and_validation_takes_the_median(folder: Path) -> None:
    task = load_task("aesthetics")
    samples = [Sample(folder / "0.png", 2.0, (1.0, 2.0, 5.0)), Sample(folder / "1.png", 4.0)]

    def labels(*, draw: bool) -> set[tuple[float, int]]:
        torch.manual_seed(0)
        data = ImageDataset(samples, task, lambda image: torch.zeros(3, 1, 1), draw=draw)
        drawn = [data[0] for _ in range(30)]
        assert data[1][1].item() == 4
        assert {(label.dtype, index.dtype) for _, label, index in drawn} == {
            (torch.float32, torch.int64)
        }
        return {(label.item(), int(index)) for _, label, index in drawn}

    assert labels(draw=True) == {(1, 0), (2, 1), (5, 4)}
    assert labels(draw=False) == {(2, 1)}
