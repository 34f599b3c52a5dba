"""The predictor: numbers from a model whose formula is known, and streams in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import ImageError, Predictor

Formula = Callable[[float, float, float], list[float]]


@pytest.mark.parametrize("colour", [(0, 0, 0), (100, 160, 30), (128, 128, 128), (255, 255, 255)])
def test_predict_matches_the_formula(
    predictor: Predictor, probs_of: Formula, colour: tuple[int, int, int]
) -> None:
    result = predictor.predict(Image.new("RGB", (30, 20), colour))
    probs = probs_of(*colour)
    assert list(result.bin_probs) == ["dark", "medium", "bright"]
    np.testing.assert_allclose(list(result.bin_probs.values()), probs, atol=1e-5)
    assert result.value == pytest.approx(5 * probs[0] + 15 * probs[1] + 25 * probs[2], abs=1e-4)
    assert result.bin == ["dark", "medium", "bright"][int(np.argmax(probs))]
    assert (result.unit, result.interval) == ("points", None)


def test_channel_order_is_rgb(predictor: Predictor) -> None:
    red, green, blue = (
        predictor.predict(Image.new("RGB", (8, 8), colour)).value
        for colour in ("red", "lime", "blue")
    )
    assert red > green > blue


def test_brighter_is_more(predictor: Predictor) -> None:
    greys = [Image.new("L", (8, 8), level) for level in range(0, 256, 15)]
    values = [item.value for item in predictor.predict_batch(greys)]
    assert values == sorted(values)
    assert values[0] < 6 < 24 < values[-1]


def test_kinds_of_input_agree(predictor: Predictor, photos: Path) -> None:
    path = photos / "dark.png"
    with Image.open(path) as image:
        array = np.asarray(image)
        results = predictor.predict_batch([str(path), path, image, array])
    assert results == [results[0]] * 4


def test_predict_batch_equals_single(predictor: Predictor, photos: Path) -> None:
    paths = sorted(photos.rglob("*.[pPj]*"))
    assert len(paths) == 3
    singles = [predictor.predict(path) for path in paths]
    for one, other in zip(predictor.predict_batch(paths), singles, strict=True):
        assert one.bin == other.bin
        assert one.value == pytest.approx(other.value, abs=1e-5)
    assert predictor.predict_batch([]) == []


def test_predict_raises_for_a_broken_image(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(ImageError, match=r"notes\.txt: not an image"):
        predictor.predict_batch([photos / "dark.png", photos / "notes.txt"])


def test_to_dict(predictor: Predictor) -> None:
    data = predictor.predict(Image.new("L", (8, 8), 255)).to_dict()
    assert list(data) == ["value", "unit", "interval", "bin", "bin_probs"]
    assert isinstance(data["value"], float)
