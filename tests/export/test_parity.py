"""Parity: which images are compared, what is measured, and what passes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from numclip.checkpoint import Checkpoint
from numclip_export.parity import PROB_TOLERANCE, Parity, compare, verification_inputs
from numclip_runtime import ImageError, ModelMetadata, Predictor, UsageError
from numclip_runtime.preprocess import FloatArray, preprocess
from tests.numclip.tiny import spec_of, tiny_model, write_photos

SPEC = spec_of("vit")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Return a checkpoint with 5 validation photos, of the labels 0 to 30."""
    write_photos(tmp_path, "val", 5)
    return Checkpoint(tiny_model(), SPEC, validation_csv=str(tmp_path / "val.csv"))


def test_validation_data_first(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, inputs = verification_inputs(checkpoint)
    assert (source, inputs.shape) == ("validation", (5, 3, 32, 32))
    assert inputs.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(inputs[3], preprocess(tmp_path / "val" / "3.png", SPEC))


def test_validation_data_starts_where_training_said(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    moved = (tmp_path / "val.csv").rename(tmp_path / "lists" / "val.csv")
    checkpoint = replace(checkpoint, validation_csv=str(moved), validation_root=str(tmp_path))
    assert verification_inputs(checkpoint)[0] == "validation"


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
    source, inputs = verification_inputs(checkpoint)
    assert (source, inputs.shape) == ("synthetic", (64, 3, 32, 32))
    assert inputs.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(inputs, verification_inputs(checkpoint)[1])  # always the same
    assert inputs.std((1, 2, 3)).min() > 0.1
    assert np.abs(inputs).max() < 10


def test_given_data(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from_folder = verification_inputs(checkpoint, tmp_path / "val")
    from_csv = verification_inputs(checkpoint, tmp_path / "val.csv")
    assert from_folder[0] == from_csv[0] == "given"
    np.testing.assert_array_equal(from_folder[1], from_csv[1])


def test_at_most_64_images_spread_evenly(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(127):
        Image.new("L", (4, 4), i).save(folder / f"{i:03}.png")
    _, inputs = verification_inputs(checkpoint, folder)
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
            verification_inputs(checkpoint, tmp_path / name)
    (tmp_path / "empty" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png: not an image"):
        verification_inputs(checkpoint, tmp_path / "empty")


class ShiftedBackend:
    """The checkpoint itself, but for an error on one image and in one batch size."""

    name = provider = "torch"

    def __init__(self, checkpoint: Checkpoint, size: int, value: float, prob: float) -> None:
        self.model = checkpoint.model
        self.metadata: ModelMetadata = checkpoint.metadata
        self.size, self.error = size, (value, prob)

    def run(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        with torch.inference_mode():
            out = self.model(torch.from_numpy(images))
        values, probs = out.values.numpy(), out.bin_probs.numpy()
        if len(images) == self.size:
            values[0] += self.error[0]
            probs[0, 1] -= self.error[1]
        return values, probs

    def close(self) -> None:
        pass


@pytest.mark.parametrize("size", [1, 8])  # of the batch that goes wrong
@pytest.mark.parametrize(
    ("value", "prob", "passed"),
    [
        (0.0, 0.0, True),
        (0.01, 0.0, True),
        (-0.03, 0.0, False),
        (0.0, PROB_TOLERANCE / 2, True),
        (0.0, PROB_TOLERANCE * 2, False),
        (math.nan, 0.0, False),
        (0.0, math.nan, False),
    ],
)
def test_compare(
    checkpoint: Checkpoint, size: int, value: float, prob: float, passed: bool
) -> None:
    _, inputs = verification_inputs(replace(checkpoint, validation_csv=None))
    with Predictor(ShiftedBackend(checkpoint, size, value, prob)) as predictor:
        parity = compare(checkpoint, predictor, inputs[:11], "synthetic", 0.02)
    assert parity.passed is passed
    assert parity.to_dict()["passed"] is passed
    assert (parity.source, parity.images, parity.value_tolerance) == ("synthetic", 11, 0.02)
    assert parity.max_value_error == pytest.approx(abs(value), abs=1e-4, nan_ok=True)
    assert parity.max_prob_error == pytest.approx(prob, abs=1e-5, nan_ok=True)
    shifted = 11 if size == 1 else 1  # of 22: every image is compared in both batch sizes
    mean = abs(value) * shifted / 22
    assert parity.mean_value_error == pytest.approx(mean, abs=1e-4, nan_ok=True)


def test_limits_belong_to_what_passes() -> None:
    assert Parity("given", 1, 0.1, 0.1, 0.1, PROB_TOLERANCE).passed
