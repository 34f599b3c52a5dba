"""The model that comes with the package: it is the recorded one, and reads what it read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from numclip_runtime import Predictor, load
from numclip_runtime.app.cli import main
from numclip_runtime.files import sha256
from numclip_runtime.model_files.names import packaged_models

MODEL = packaged_models()["quality"]


def leaves() -> npt.NDArray[np.float64]:
    """Return grained discs of random size and grey that hide each other, (200, 240, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :240]
    grey = np.full((200, 240), 128.0)
    for _ in range(150):
        radius, level = rng.uniform(4, 30), rng.uniform(20, 235)
        grey[np.hypot(y - rng.uniform(0, 200), x - rng.uniform(0, 240)) < radius] = level
    grain = blurred(rng.normal(0, 25, grey.shape), 2)
    return np.repeat((grey + grain)[..., None], 3, 2)


def blurred(picture: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Return means over width x width pixels."""
    for axis in (0, 1):
        shifted = [np.roll(picture, shift, axis) for shift in range(width)]
        picture = np.mean(shifted, axis=0)
    return picture


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    pytest.importorskip("onnxruntime")
    with load("quality") as loaded:
        yield loaded


def test_it_is_the_recorded_file_and_small() -> None:
    record = json.loads(MODEL.with_suffix(".json").read_text("utf-8"))
    assert sha256(MODEL) == record["sha256"]
    assert record["sha256"] in MODEL.with_suffix(".md").read_text("utf-8")
    assert MODEL.stat().st_size <= 6_000_000


def test_help_names_the_packaged_models() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert f"comes with the package ({', '.join(packaged_models())})" in text


@pytest.mark.parametrize(("kind", "expected"), [("sharp", 0.0), ("blurred", 59.8), ("noisy", 58.8)])
def test_pictures_are_read_as_they_were(predictor: Predictor, kind: str, expected: float) -> None:
    picture = leaves()
    if kind == "blurred":
        picture = blurred(picture, 9)
    if kind == "noisy":
        picture = picture + np.random.default_rng(1).normal(0, 30, picture.shape)
    found = predictor.predict(np.rint(picture.clip(0, 255)).astype(np.uint8))
    assert found.value == pytest.approx(expected, abs=0.5)
    assert found.interval is not None
