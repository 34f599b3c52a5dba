"""Calibration: intervals by hand, the contract's JSON, and what a prediction shows of it."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numclip_runtime import Calibration, ModelError, ModelMetadata, Predictor, Task, UsageError
from numclip_runtime.calibration import bin_centres, scales
from numclip_runtime.results.records import RecordWriter, record_of

CALIBRATION = Calibration(
    temperature=1.5,
    scale_floor=3.0,
    coverages=(0.5, 0.9),
    factors=(0.5, 2.0),
    images=100,
)
TASK = Task("age", "years", (0.0, 10.0, 30.0), ("young", "old"), label_offset=1.0)


def test_bin_centres_are_in_label_units() -> None:
    assert bin_centres(TASK).tolist() == [6.0, 21.0]


def test_scale_by_hand() -> None:
    # centres 6 and 21 lie 4 and 11 from the value 10
    values, probs = np.array([10.0, 6.0]), np.array([[0.5, 0.5], [1.0, 0.0]])
    expected = [math.sqrt(0.5 * 16 + 0.5 * 121 + 9), 3.0]
    np.testing.assert_allclose(scales(values, probs, TASK, 3.0), expected)


def test_interval_by_hand_and_clipped_to_the_label_range() -> None:
    values, probs = np.array([10.0, 6.0, 2.0, 30.0]), np.array([[0.5, 0.5], *[[1.0, 0.0]] * 3])
    ends = CALIBRATION.intervals(values, probs, TASK)
    assert ends is not None
    # scales sqrt(77.5), 3, 5 and 24.2; half-widths are twice that, and the range is 1 to 31
    expected = np.array([[1, 10 + 2 * math.sqrt(77.5)], [1, 12], [1, 12], [1, 31]])
    np.testing.assert_allclose(ends, expected)
    narrow = CALIBRATION.intervals(values, probs, TASK, 0.5)
    assert narrow is not None
    np.testing.assert_allclose(narrow[1], [4.5, 7.5])


def test_value_beyond_the_range_keeps_a_valid_interval() -> None:
    ends = CALIBRATION.intervals(np.array([500.0]), np.array([[0.0, 1.0]]), TASK, 0.5)
    assert ends is not None
    low, high = ends[0]
    assert 1 <= low <= high == 31


def test_coverage_that_was_not_fitted() -> None:
    assert CALIBRATION.intervals(np.zeros(1), np.ones((1, 2)) / 2, TASK, 0.8) is None


def metadata_of(predictor: Predictor, calibration: Calibration | None) -> ModelMetadata:
    return replace(predictor.metadata, calibration=calibration)


def test_json_round_trip(predictor: Predictor) -> None:
    for calibration in (CALIBRATION, None):
        metadata = metadata_of(predictor, calibration)
        assert ModelMetadata.from_json(metadata.to_json()) == metadata


def test_files_from_before_calibration_load(predictor: Predictor) -> None:
    text = predictor.metadata.to_json()
    assert "calibration" not in json.loads(text)
    assert ModelMetadata.from_json(text).calibration is None
    null = json.dumps(json.loads(text) | {"calibration": None})
    assert ModelMetadata.from_json(null) == predictor.metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite"),
        ({"temperature": math.inf}, "'temperature' must be finite, got inf"),
        ({"temperature": 1e-31}, "temperature must be above 0 and finite"),
        ({"scale_floor": math.nan}, "'scale_floor' must be finite, got nan"),
        ({"scale_floor": 1e200}, "scale_floor must be above 0 and finite"),
        ({"images": -1}, "images must be at least 0"),
        ({"images": 1.0}, "'images' must be a whole number of 64 bits, got 1.0"),
        ({"coverages": (0.9,)}, "1 coverages need as many factors, got 2"),
        ({"coverages": (0.9, 0.5)}, "coverages must ascend, each between 0 and 1"),
        ({"coverages": (0.9, 0.9)}, "coverages must ascend"),
        ({"coverages": (0.5, 1.0)}, "coverages must ascend, each between 0 and 1"),
        ({"factors": (2.0, 1.0)}, "factors must not descend"),
        ({"factors": (1.0, math.inf)}, "'factors' item 2 must be finite, got inf"),
        ({"factors": (1.0, 1e31)}, "factors must not descend, each finite"),
        ({"factors": (-1.0, 1.0)}, "each finite and at least 0"),
        ({"factors": 2.0}, "'factors' must be a list of numbers, got 2.0"),
        ({"temperature": "1"}, "'temperature' must be a number, got '1'"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_bad_fields_are_refused(
    predictor: Predictor, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration.from_dict(asdict(CALIBRATION) | changes)
    plain = json.loads(predictor.metadata.to_json())
    plain["calibration"] = asdict(CALIBRATION) | changes
    with pytest.raises(ModelError, match=r"a\.onnx: incomplete numclip metadata"):
        ModelMetadata.from_json(json.dumps(plain), source="a.onnx")


def test_predictions_carry_the_interval(predictor: Predictor, photos: Path) -> None:
    paths = [photos / "dark.png", photos / "light.jpg", photos / "sub" / "mid.PNG"]
    before = predictor.predict_batch(paths)
    assert [item.interval for item in before] == [None] * 3
    assert not predictor.calibrated
    predictor.backend.metadata = metadata_of(predictor, CALIBRATION)
    assert predictor.calibrated
    for item, bare in zip(predictor.predict_batch(paths), before, strict=True):
        assert replace(item, interval=None) == bare
        probs = np.array(list(item.bin_probs.values()))
        half = 2 * math.sqrt(probs @ (np.array([5, 15, 25]) - item.value) ** 2 + 9)
        assert item.interval == pytest.approx(
            (max(item.value - half, 0), min(item.value + half, 30)), abs=1e-4
        )
        assert isinstance(item.interval, tuple)


def test_a_calibration_without_the_default_coverage_gives_none(
    predictor: Predictor, photos: Path
) -> None:
    few = replace(CALIBRATION, coverages=(0.5,), factors=(1.0,), images=4)
    predictor.backend.metadata = metadata_of(predictor, few)
    assert not predictor.calibrated
    assert predictor.predict(photos / "dark.png").interval is None


def test_table_and_csv_show_the_interval(predictor: Predictor, photos: Path) -> None:
    predictor.backend.metadata = metadata_of(predictor, CALIBRATION)
    record = record_of("a.png", predictor.predict(photos / "dark.png"))
    low, high = record["interval"]
    file = io.StringIO()
    with RecordWriter("table", file, intervals=True) as writer:
        writer.write(record)
        writer.write({"path": "b.png", "error": "b.png: no such file."})
    head, row, failed = file.getvalue().splitlines()
    assert head.split() == ["value", "90%", "interval", "bin", "path"]
    assert f"points  {low:.2f} to {high:.2f}  " in row
    assert head.index("path") == row.index("a.png") == failed.index("b.png")
    file = io.StringIO()
    with RecordWriter("csv", file) as writer:
        writer.write(record)
    assert f',"[{low}, {high}]",' in file.getvalue()
