"""Fitting: exact ranks, coverage by simulation, a known temperature found again."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from numclip.evaluation.calibration import (
    COVERAGES,
    choose_floor,
    describe_calibration,
    fit_calibration,
    fit_temperature,
)
from numclip.evaluation.predictions import log_softmax
from numclip.evaluation.quantiles import conformal_quantile
from numclip_runtime import Calibration, Task, UsageError
from numclip_runtime.calibration import DEFAULT_COVERAGE, Array

TASK = Task("quality", "points", (0, 20, 40, 60, 80, 100), ("a", "b", "c", "d", "e"))
UNEVEN = Task("age", "years", (0, 13, 19, 35, 65, 101), ("a", "b", "c", "d", "e"), label_offset=2)


@pytest.mark.parametrize(
    ("n", "coverage", "rank"),
    [
        (9, 0.9, 9),  # ceil(10 * 0.9) = 9: the largest
        (10, 0.9, 10),  # ceil(9.9)
        (19, 0.9, 18),  # ceil(18)
        (20, 0.9, 19),  # ceil(18.9)
        (99, 0.9, 90),
        (100, 0.9, 91),  # not 90: n + 1, not n
        (19, 0.95, 19),
        (1, 0.5, 1),
        (4, 0.5, 3),
        (4, 0.8, 4),
    ],
)
def test_conformal_quantile_has_the_finite_sample_rank(n: int, coverage: float, rank: int) -> None:
    scores = np.random.default_rng(n).permutation(n) + 1.0  # 1 to n in any order
    assert conformal_quantile(scores, coverage) == rank


@pytest.mark.parametrize(("n", "coverage"), [(8, 0.9), (18, 0.95), (3, 0.8), (0, 0.5)])
def test_too_few_scores_promise_nothing(n: int, coverage: float) -> None:
    assert conformal_quantile(np.zeros(n), coverage) == math.inf


def test_rank_suffers_no_rounding() -> None:
    for coverage in COVERAGES:
        for n in range(20, 2000):
            rank = math.ceil((n + 1) * Fraction(str(coverage)))
            assert conformal_quantile(np.arange(n) + 1.0, coverage) == rank


def simulate(rng: np.random.Generator, n: int, task: Task, kind: str) -> tuple[Array, Array, Array]:
    """Return values, logits, labels of a model whose error varies and whose bins are too sure."""
    low, high = task.bin_edges[0], task.bin_edges[-1]
    truth = rng.uniform(low, high, n)
    noise = np.where(rng.random(n) < 0.3, 0.18, 0.04) if kind == "varied" else np.full(n, 0.08)
    seen = truth + noise * (high - low) * rng.normal(size=n)
    centres = (np.array(task.bin_edges[1:]) + task.bin_edges[:-1]) / 2
    width = noise[:, None] * (high - low) + 5
    logits = -4 * ((seen[:, None] - centres) / width) ** 2
    if kind == "unrelated":
        logits = 20 * rng.normal(size=logits.shape)
    return seen + task.label_offset, logits, truth + task.label_offset


def measure(
    calibration: Calibration, values: Array, logits: Array, task: Task, coverage: float
) -> tuple[Array, Array]:
    probs = np.exp(log_softmax(logits / calibration.temperature))
    ends = calibration.intervals(values, probs, task, coverage)
    assert ends is not None
    return ends[:, 0], ends[:, 1]


@pytest.mark.parametrize("kind", ["varied", "same", "unrelated"])
@pytest.mark.parametrize("task", [TASK, UNEVEN], ids=["even", "uneven"])
def test_intervals_cover_what_they_state(kind: str, task: Task) -> None:
    """Over 40 fits on 200 images, coverage of fresh images stays within binomial bounds."""
    rng = np.random.default_rng(7)
    fits, fresh = 40, 1000
    inside = dict.fromkeys(COVERAGES, 0.0)
    for _ in range(fits):
        values, logits, labels = simulate(rng, 200 + fresh, task, kind)
        fitted = fit_calibration(values[:200], logits[:200], labels[:200], task)
        for coverage in COVERAGES:
            low, high = measure(fitted, values[200:], logits[200:], task, coverage)
            inside[coverage] += float(((low <= labels[200:]) & (labels[200:] <= high)).mean())
    for coverage, total in inside.items():
        # A fit on n images has coverage Beta-distributed around the stated one; plus n fresh draws.
        spread = math.sqrt(coverage * (1 - coverage) * (1 / 200 + 1 / fresh) / fits)
        # 0.012: what choosing the floor and the temperature on the same images may cost
        assert -4 * spread - 0.012 < total / fits - coverage < 4 * spread + 1 / 200, coverage


def test_intervals_follow_the_difficulty_and_beat_one_width() -> None:
    rng = np.random.default_rng(3)
    values, logits, labels = simulate(rng, 2480, TASK, "varied")
    fitted = fit_calibration(values[:480], logits[:480], labels[:480], TASK)
    low, high = measure(fitted, values[480:], logits[480:], TASK, DEFAULT_COVERAGE)
    half = conformal_quantile(np.abs(labels - values)[:480], DEFAULT_COVERAGE)
    same = values[480:] - half, values[480:] + half

    def score(low: Array, high: Array) -> float:
        low, high = low.clip(0, 100), high.clip(0, 100)
        missed = np.maximum(low - labels[480:], 0) + np.maximum(labels[480:] - high, 0)
        return float((high - low + 20 * missed).mean())

    assert score(low, high) < 0.9 * score(*same)


def test_bins_that_know_nothing_get_nearly_one_width() -> None:
    values, logits, labels = simulate(np.random.default_rng(3), 480, TASK, "unrelated")
    fitted = fit_calibration(values, logits, labels, TASK)
    assert fitted.scale_floor > 1.9 * float(np.abs(labels - values).mean())


@pytest.mark.parametrize("known", [0.5, 1.0, 2.5, 10.0])
def test_temperature_is_found_again(known: float) -> None:
    rng = np.random.default_rng(1)
    true_logits = 2 * rng.normal(size=(4000, 5))
    probs = np.exp(log_softmax(true_logits))
    bins = np.array([rng.choice(5, p=row / row.sum()) for row in probs])
    assert fit_temperature(known * true_logits, bins) == pytest.approx(known, rel=0.06)


def test_temperature_minimises_the_likelihood() -> None:
    rng = np.random.default_rng(2)
    logits, bins = 3 * rng.normal(size=(500, 4)), rng.integers(0, 4, 500)
    logits[np.arange(500), bins] += 4

    def nll(temperature: float) -> float:
        return -float(log_softmax(logits / temperature)[np.arange(500), bins].mean())

    best = min(np.geomspace(0.1, 100, 5000), key=nll)
    assert fit_temperature(logits, bins) == pytest.approx(best, rel=0.05)


def test_temperature_of_bins_that_are_all_right_stays_finite() -> None:
    logits, bins = 10 * np.eye(4)[np.arange(20) % 4], np.arange(20) % 4
    temperature = fit_temperature(logits, bins)
    assert 0.5 < temperature < 5, "not the lower end of the search"


def test_few_images_leave_coverages_out() -> None:
    values, logits, labels = simulate(np.random.default_rng(0), 9, TASK, "same")
    assert fit_calibration(values, logits, labels, TASK).coverages == (0.5, 0.8, 0.9)
    few = fit_calibration(values[:8], logits[:8], labels[:8], TASK)
    assert few.coverages == (0.5, 0.8)
    line = describe_calibration(few, values[:8], logits[:8], TASK)
    assert line.endswith("too few images for 90% intervals")
    assert fit_calibration(values[:1], logits[:1], labels[:1], TASK).coverages == (0.5,)


def test_description_names_temperature_and_half_width() -> None:
    values, logits, labels = simulate(np.random.default_rng(0), 200, TASK, "same")
    fitted = fit_calibration(values, logits, labels, TASK)
    line = describe_calibration(fitted, values, logits, TASK)
    low, high = measure(fitted, values, logits, TASK, DEFAULT_COVERAGE)
    half = float(np.median(high - low)) / 2
    assert line == (
        f"calibrated on 200 images: temperature {fitted.temperature:.2f}, "
        f"90% interval typically ±{half:.3g} points"
    )


def test_a_perfect_model_can_be_calibrated() -> None:
    labels = np.arange(0.0, 100.0)
    logits = 50 * np.eye(5)[(labels // 20).astype(int)]
    fitted = fit_calibration(labels, logits, labels, TASK)
    low, high = measure(fitted, labels, logits, TASK, DEFAULT_COVERAGE)
    np.testing.assert_array_equal(low, labels)
    np.testing.assert_array_equal(high, labels)
    assert choose_floor(labels, np.eye(5)[np.zeros(100, int)], labels, TASK) > 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused(wrong: float) -> None:
    values, logits, labels = simulate(np.random.default_rng(0), 20, TASK, "same")
    logits[3, 2] = wrong
    with pytest.raises(UsageError, match=r"cannot calibrate: .* not finite"):
        fit_calibration(values, logits, labels, TASK)
