"""Metrics: the paper's golden case, and a small set worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from numclip.evaluation.metrics import (
    bin_metrics,
    confusion,
    evaluate_predictions,
    interval_metrics,
    per_bin,
    probability_metrics,
    reliability,
    value_metrics,
)
from numclip.evaluation.predictions import Predictions
from numclip.evaluation.report import table
from numclip_runtime import Calibration, Task

FIVE = Task("grade", "", (0, 1, 2, 3, 4, 5), ("a", "b", "c", "d", "e"))
# Factor 1 and a floor of 4 make an interval of value +- hypot(spread, 4).
CALIBRATION = Calibration(2.0, 4.0, (0.8, 0.9), (0.5, 1.0), 50)
AGES = Task("age", "years", (0, 10, 20, 40), ("child", "teen", "adult"))


def golden() -> Predictions:
    probs = [
        [0.5, 0.0, 0.0, 0.5, 0.0],
        [0.0, 0.5, 0.5, 0.0, 0.0],
        [0.1, 0.2, 0.4, 0.2, 0.1],
        [0.0, 0.0, 0.45, 0.1, 0.45],
    ]
    labels = np.array([2.0, 2, 2, 3])
    return Predictions(FIVE, None, labels, labels + 0.5, np.array(probs))


def by_hand(calibration: Calibration | None = CALIBRATION) -> Predictions:
    return Predictions(
        AGES,
        calibration,
        labels=np.array([2.0, 8.0, 15.0, 30.0]),
        values=np.array([5.0, 14.0, 15.0, 24.0]),
        bin_probs=np.array([[1.0, 0, 0], [0.25, 0.75, 0], [0, 1.0, 0], [0, 0.5, 0.5]]),
    )


def test_golden_case_of_the_released_evaluation() -> None:
    assert bin_metrics(golden()) == pytest.approx(
        {"acc_max": 0.25, "acc_exp": 1.0, "mae_max_index": 1.0, "mae_exp_index": 0.25}
    )


@pytest.mark.parametrize(("expected_index", "rounded"), [(0.5, 0), (1.5, 2), (2.5, 2), (3.5, 4)])
def test_expected_bin_rounds_half_to_even(expected_index: float, rounded: int) -> None:
    probs = np.zeros((1, 5))
    probs[0, [math.floor(expected_index), math.ceil(expected_index)]] = 0.5
    found = Predictions(FIVE, None, np.array([rounded + 0.5]), np.zeros(1), probs)
    assert bin_metrics(found)["acc_exp"] == 1


def test_values_by_hand() -> None:
    # Centres are 5, 15, 30. Errors +3, +6, 0, -6. Expected 5, 12.5, 15, 22.5; chosen 5, 15, 15, 15.
    assert value_metrics(by_hand()) == pytest.approx(
        {
            "mae": 15 / 4,
            "rmse": math.sqrt((9 + 36 + 36) / 4),
            "bias": 3 / 4,
            "mae_exp": (3 + 4.5 + 0 + 7.5) / 4,
            "mae_max": (3 + 7 + 0 + 15) / 4,
            "mae_constant": (9.5 + 3.5 + 3.5 + 18.5) / 4,  # of 11.5, between 8 and 15
        }
    )


def test_label_offset_moves_the_centres() -> None:
    task = Task("age", "", AGES.bin_edges, AGES.phrases, label_offset=100)
    moved = by_hand()
    moved = Predictions(task, None, moved.labels + 100, moved.values + 100, moved.bin_probs)
    assert value_metrics(moved) == pytest.approx(value_metrics(by_hand()))


def test_per_bin_by_hand() -> None:
    child, teen, adult = per_bin(by_hand())
    assert (child["bin"], child["n"], child["mae"], child["bias"]) == ("child", 2, 4.5, 4.5)
    assert child["acc_max"] == 0.5
    # 5 +- 4 covers 2; 14 +- sqrt(.25 * 81 + .75 * 1 + 16) = 14 +- 6.08 misses 8 no longer
    assert child["coverage"] == 1.0
    assert child["mean_width"] == pytest.approx((8 + 2 * math.sqrt(37)) / 2)
    assert teen == {
        "bin": "teen",
        "n": 1,
        "mae": 0,
        "bias": 0,
        "acc_max": 1,
        "coverage": 1,
        "mean_width": 8,
    }
    assert (adult["n"], adult["mae"], adult["bias"], adult["acc_max"]) == (1, 6, -6, 0)


def test_bin_without_images_has_no_numbers() -> None:
    found = by_hand()
    few = Predictions(AGES, None, found.labels[:2], found.values[:2], found.bin_probs[:2])
    nothing = {"mae": None, "bias": None, "acc_max": None, "coverage": None, "mean_width": None}
    assert per_bin(few)[2] == {"bin": "adult", "n": 0} | nothing


def test_intervals_by_hand() -> None:
    half = np.sqrt([16, 37, 16, 0.5 * 81 + 0.5 * 36 + 16])
    narrow, wide = interval_metrics(by_hand())
    assert narrow["stated"] == 0.8
    # at half the width 5 +- 2 misses 2, 14 +- 3.04 misses 8, 24 +- 4.32 misses 30
    assert (narrow["coverage"], wide["coverage"]) == (0.25, 1.0)
    assert wide["mean_width"] == pytest.approx(2 * half.mean())
    assert wide["median_width"] == pytest.approx(2 * np.median(half))
    assert interval_metrics(by_hand(None)) == []


def test_confusion_by_hand() -> None:
    assert confusion(by_hand()).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_reliability_by_hand() -> None:
    probs = np.array([[0.55, 0.45], [0.58, 0.42], [1.0, 0.0], [0.05, 0.95]])
    assert reliability(probs, np.array([0, 1, 0, 0])) == [
        {"n": 2, "confidence": pytest.approx(0.565), "accuracy": 0.5},
        {"n": 2, "confidence": pytest.approx(0.975), "accuracy": 0.5},
    ]


def test_likelihood_before_and_after_the_temperature() -> None:
    before = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]]) + 1e-9
    after = np.sqrt(before) / np.sqrt(before).sum(1, keepdims=True)  # temperature 2
    found = Predictions(AGES, CALIBRATION, np.array([1.0, 30.0]), np.zeros(2), after)
    got = probability_metrics(found)
    assert got["temperature"] == 2
    assert got["nll_uncalibrated"] == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 2)
    assert got["nll"] == pytest.approx(-(math.log(after[0, 0]) + math.log(after[1, 2])) / 2)
    assert got["ece_uncalibrated"] == pytest.approx((0.1 + 0.7) / 2)


def test_probability_of_zero_has_a_finite_likelihood() -> None:
    found = Predictions(AGES, None, np.array([1.0]), np.zeros(1), np.array([[0.0, 1.0, 0.0]]))
    assert probability_metrics(found)["nll"] == pytest.approx(87.5, abs=0.1)


@pytest.mark.parametrize("calibration", [CALIBRATION, None])
def test_metrics_are_json_and_a_table(calibration: Calibration | None) -> None:
    found = by_hand(calibration)
    metrics: dict[str, Any] = evaluate_predictions(found)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    text = table(metrics, found.task)
    rows = {line[:46].strip(): line[46:].strip() for line in text.splitlines()}
    assert rows["MAE of the value"] == "3.750 years"
    assert rows["right bin, most probable / expected"] == "50.0% / 75.0%"
    child = next(line for line in text.splitlines() if line.startswith("child"))
    if calibration is None:
        assert rows["intervals"] == "none: this model is not calibrated"
        assert child.split() == ["child", "2", "4.50", "+4.50", "50.0%"]
    else:
        assert rows["80% interval, covers / mean width"].startswith("25.0% / ")
        assert child.split() == ["child", "2", "4.50", "+4.50", "50.0%", "100.0%", "10.08"]
