"""The packaged model's recipe: its data, and that the model in the package is of this recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.quality import native, native_card, native_data
from numclip_runtime import Preprocessing
from numclip_runtime.preprocess import load_rgb, mosaic

FINE = Preprocessing(192, 192, "fragments", fragments=3)


def test_the_packaged_model_is_of_this_recipe() -> None:
    record = json.loads((native.HOME / "quality.json").read_text("utf-8"))
    assert record["train"] == list(native.TRAIN)
    assert record["photos"] == {name: list(photos) for name, photos in native_data.PHOTOS.items()}
    size = (native.HOME / "quality.onnx").stat().st_size
    assert native_card.card(record, size) == (native.HOME / "quality.md").read_text("utf-8")


def test_no_photo_is_in_two_splits_and_each_has_a_licence() -> None:
    names = [name for photos in native_data.PHOTOS.values() for name in photos]
    assert len(set(names)) == len(names)
    assert set(names) <= set(native_card.LICENCES)


def test_a_picture_for_training_depends_on_its_index_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "test").mkdir(parents=True)
    made = {folder: native_data.make_picture(tmp_path / folder, "test", 0, 7) for folder in "ab"}
    assert made["a"] == made["b"]
    pictures = [load_rgb(tmp_path / folder / made[folder][0]) for folder in "ab"]
    assert pictures[0].size == (264, 264)
    np.testing.assert_array_equal(np.asarray(pictures[0]), np.asarray(pictures[1]))
    assert native_data.make_picture(tmp_path / "a", "test", 0, 8) != made["a"]


def test_severities_add_up_to_one_that_is_even_from_0_to_100() -> None:
    rng = np.random.default_rng(0)
    drawn = [native_data.severities(rng) for _ in range(2000)]
    totals = [native_data.total_severity(parts) for parts in drawn]
    counts, _ = np.histogram(totals, 10, (0, 100))
    assert counts.min() > 150  # of 200, standard deviation 13
    assert {len(parts) for parts in drawn} == {1, 2, 3}
    assert native_data.total_severity({"blur": 30, "jpeg": 40}) == pytest.approx(
        math.sqrt(math.hypot(30**2, 40**2))
    )


def test_pieces_of_a_training_picture_do_not_reach_into_each_other() -> None:
    """A fragment from the middle of a cell has no border in it, whose sharpness would tell."""
    rng = np.random.default_rng(3)
    picture = native_data.mosaic_picture("test", {"blur": 90.0}, rng)
    middle = np.full((3, 3, 2), 0.5)
    steps = np.abs(np.diff(np.asarray(mosaic(picture, FINE, middle), int), axis=1)).max((0, 2))
    inside = [x for x in range(191) if x not in (63, 127)]
    assert steps[inside].max() < 20 < steps[[63, 127]].max()


def test_a_wall_is_filled() -> None:
    white = native_data.Photo(Image.new("RGB", (400, 400), "white"))
    wall = native_data.wall([white], (500, 300), np.random.default_rng(0))
    assert wall.getextrema() == ((255, 255),) * 3
