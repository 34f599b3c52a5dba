"""Which images an artefact is compared on: photos first, patterns to fill up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip.checkpoint import Checkpoint
from numclip_export.images import verify_images
from numclip_runtime import ImageError, UsageError
from numclip_runtime.preprocess import preprocess
from tests.numclip.tiny import spec_of, tiny_model, write_photos

SPEC = spec_of("vit")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Return a checkpoint with 5 validation photos, of the labels 0 to 30."""
    write_photos(tmp_path, "val", 5)
    return Checkpoint(tiny_model(), SPEC, validation_csv=str(tmp_path / "val.csv"))


def test_validation_data_first(checkpoint: Checkpoint, tmp_path: Path) -> None:
    images = verify_images(checkpoint)
    assert (images.source, images.photos) == ("validation", 5)
    assert images.inputs.shape == (64, 3, 32, 32)
    assert images.inputs.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(images.inputs[3], preprocess(tmp_path / "val" / "3.png", SPEC))


def test_validation_data_starts_where_training_said(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    moved = (tmp_path / "val.csv").rename(tmp_path / "lists" / "val.csv")
    checkpoint = replace(checkpoint, validation_csv=str(moved), validation_root=str(tmp_path))
    assert verify_images(checkpoint).source == "validation"


@pytest.mark.parametrize("broken", ["no file", "no csv", "bad image", "no validation"])
def test_synthetic_images_where_the_data_is_gone(
    checkpoint: Checkpoint, tmp_path: Path, broken: str
) -> None:
    if broken == "no file":
        (tmp_path / "val" / "2.png").unlink()
    elif broken == "no csv":
        (tmp_path / "val.csv").unlink()
    elif broken == "bad image":
        (tmp_path / "val" / "2.png").write_bytes(b"no image")
    else:
        checkpoint = replace(checkpoint, validation_csv=None)
    images = verify_images(checkpoint)
    inputs = images.inputs
    assert (images.source, images.photos) == ("synthetic", 0)
    assert inputs.shape == (64, 3, 32, 32)
    assert inputs.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(inputs, verify_images(checkpoint).inputs)  # always the same
    assert inputs.std((1, 2, 3)).min() > 0.1
    assert np.abs(inputs).max() < 10


def test_given_data(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from_folder = verify_images(checkpoint, tmp_path / "val")
    from_csv = verify_images(checkpoint, tmp_path / "val.csv")
    assert from_folder.source == from_csv.source == "given"
    assert from_folder.photos == 5
    np.testing.assert_array_equal(from_folder.inputs, from_csv.inputs)


def test_patterns_fill_up(checkpoint: Checkpoint) -> None:
    patterns = verify_images(replace(checkpoint, validation_csv=None)).inputs
    np.testing.assert_array_equal(verify_images(checkpoint).inputs[5:], patterns[:59])


def test_at_most_64_images_spread_evenly(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(127):
        Image.new("L", (4, 4), i).save(folder / f"{i:03}.png")
    images = verify_images(checkpoint, folder)
    assert images.photos == 64
    inputs = images.inputs
    greys = np.rint((inputs[:, 0, 0, 0] * SPEC.std[0] + SPEC.mean[0]) * 255)
    np.testing.assert_array_equal(greys, np.arange(0, 127, 2))


def test_unusable_given_data(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    for name, message in (
        ("empty", "no images in this folder"),
        ("gone", "no such file or folder; give a CSV file"),
        ("a.txt", "holds no images"),
        ("gone.csv", "cannot read this CSV file"),
    ):
        with pytest.raises(UsageError, match=message):
            verify_images(checkpoint, tmp_path / name)
    (tmp_path / "empty" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png: not an image"):
        verify_images(checkpoint, tmp_path / "empty")
