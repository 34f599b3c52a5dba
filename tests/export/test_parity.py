"""Parity: what is measured, and what passes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from numclip.checkpoint import Checkpoint
from numclip_export.cosine import centred_cosines
from numclip_export.images import VerifyImages
from numclip_export.parity import BUDGETS, Parity, Reference
from numclip_runtime.preprocess import FloatArray
from numclip_runtime.task import PredictionKind
from tests.numclip.tiny import TASK, images_of, spec_of, tiny_model

PROB = BUDGETS["fp32"].prob


def given(count: int) -> VerifyImages:
    unused = np.zeros((count, 32, 32, 3), np.uint8)
    return VerifyImages("given", unused, images_of("vit", count).numpy(), count)


def reference_of(
    count: int = 11, prediction: PredictionKind = "regressor", atol: float | None = 0.02
) -> tuple[Checkpoint, Reference]:
    model = tiny_model(task=replace(TASK, prediction=prediction))
    checkpoint = Checkpoint(model, spec_of("vit"))
    images = given(count)
    return checkpoint, Reference(checkpoint, images, atol=atol)


class Shifted:
    """The checkpoint itself, but for an error on the first image of one batch size."""

    def __init__(self, checkpoint: Checkpoint, size: int, value: float, prob: float) -> None:
        self.checkpoint = checkpoint
        self.size, self.value, self.prob = size, value, prob
        self.runs: Counter[int] = Counter()

    def __call__(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        self.runs[len(images)] += 1
        with torch.inference_mode():
            values, probs = (t.numpy() for t in self.checkpoint.outputs(torch.from_numpy(images)))
        if len(images) == self.size:
            values[0] += self.value
            probs[0, 1] -= self.prob
        return values, probs


@pytest.mark.parametrize("size", [1, 8, 32])  # of the batch that goes wrong
@pytest.mark.parametrize(
    ("value", "prob", "passed"),
    [
        (0.0, 0.0, True),
        (0.01, 0.0, True),
        (-0.03, 0.0, False),
        (0.0, PROB / 2, True),
        (0.0, PROB * 2, False),
        (math.nan, 0.0, False),
        (math.inf, 0.0, False),
        (0.0, math.nan, False),
    ],
)
def test_judge(size: int, value: float, prob: float, passed: bool) -> None:
    checkpoint, reference = reference_of()
    run = Shifted(checkpoint, size, value, prob)
    parity = reference.judge(run, "fp32")
    assert run.runs == {1: 11, 8: 2, 32: 1}  # batches are full
    assert parity.passed is passed
    assert parity.to_dict()["passed"] is passed
    assert (parity.source, parity.images, parity.photos) == ("given", 11, 11)
    assert parity.value_tolerance == 0.02
    assert parity.max_value_error == pytest.approx(abs(value), abs=1e-4, nan_ok=True)
    assert parity.max_prob_error == pytest.approx(prob, abs=1e-5, nan_ok=True)
    if math.isfinite(value):
        mean = abs(value) * run.runs[size] / (11 + 16 + 32)
        assert parity.mean_value_error == pytest.approx(mean, abs=1e-4)
        assert parity.p99_value_error <= parity.max_value_error


def test_no_tolerance_admits_infinity() -> None:
    checkpoint, reference = reference_of(atol=math.inf)
    assert reference.judge(Shifted(checkpoint, 1, 1e30, 0), "fp32").passed
    assert not reference.judge(Shifted(checkpoint, 1, math.inf, 0), "fp32").passed
    assert not reference.judge(Shifted(checkpoint, 1, math.nan, 0), "fp32").passed


def test_budgets_are_shares_of_the_label_range() -> None:
    checkpoint, reference = reference_of(atol=None)
    run = Shifted(checkpoint, 8, 0.05, 0)
    assert reference.judge(run, "fp32").value_tolerance == pytest.approx(30 * 1e-5)
    assert reference.judge(run, "fp16").value_tolerance == pytest.approx(30 * 2e-3)
    assert not reference.judge(run, "fp32").passed
    assert reference.judge(run, "fp16").passed
    assert not reference.judge(Shifted(checkpoint, 8, 0.07, 0), "fp16").passed
    assert not reference.judge(Shifted(checkpoint, 8, 0, 0.011), "fp16").passed


@pytest.mark.parametrize(
    ("everywhere", "once", "sentence"),  # shares of the label range
    [
        (0.0019, 0.0, None),
        (0.0021, 0.0, "in the mean by 0.063 (allowed 0.06), by up to 0.063 (0.3), and"),
        (0.0, 0.0099, None),
        (0.0, 0.0101, "(allowed 0.06), by up to 0.303 (0.3), and"),
    ],
)
def test_bf16_is_judged_by_the_mean_and_by_the_largest(
    everywhere: float, once: float, sentence: str | None
) -> None:
    checkpoint, reference = reference_of(atol=None)
    exact = Shifted(checkpoint, 32, 30 * once, 0)

    def run(images: FloatArray) -> tuple[FloatArray, FloatArray]:
        values, probs = exact(images)
        return values + np.float32(30 * everywhere), probs

    parity = reference.judge(run, "bf16")
    assert parity.passed is (sentence is None)
    assert sentence is None or sentence in parity.difference
    assert reference_of(atol=1.0)[1].judge(run, "bf16").passed  # --atol takes the place of both


def test_limits_belong_to_what_passes() -> None:
    parity = Parity("given", 1, 1, (1,), 0.1, 0.2, 0.1, 0.1, 0.1, 0.2, 0)
    assert parity.passed
    assert not replace(parity, max_value_error=0.11).passed
    assert not replace(parity, max_prob_error=0.21).passed


def test_int8_is_judged_by_the_mean() -> None:
    """One image far off is no reason to refuse; being off on average is."""
    parity = Parity("given", 1, 1, (1,), 0.1, 1.0, 0.5, 0.09, 0.4, 0.2, 0, judged_by="mean")
    assert parity.passed
    assert not replace(parity, mean_value_error=0.11).passed
    assert not replace(parity, judged_by="max").passed
    assert not replace(parity, max_value_error=math.inf).passed


@pytest.mark.parametrize("max_batch", [1, 4, 8, 50])
def test_batch_sizes(max_batch: int) -> None:
    checkpoint, _ = reference_of(1)
    images = given(1)
    reference = Reference(checkpoint, images, max_batch=max_batch)
    assert reference.batch_sizes == tuple(sorted({1, min(8, max_batch), max_batch}))


def test_a_flipped_class_fails_unless_two_classes_tie() -> None:
    checkpoint, reference = reference_of(prediction="class", atol=None)
    budget = BUDGETS["fp16"].prob
    reference.bin_probs[:] = (0.6, 0.3, 0.1)
    values = reference.values.copy()
    probs = reference.bin_probs.copy()

    def flipped(images: FloatArray) -> tuple[FloatArray, FloatArray]:
        row = [
            int(np.flatnonzero((reference.images.inputs == i).all((1, 2, 3)))[0]) for i in images
        ]
        wrong = np.where(np.array(row) == 3, 10, 0)
        return (values[row] + wrong).astype(np.float32), probs[row]

    assert not reference.judge(flipped, "fp16").passed  # the third image's class is another, by 10
    reference.bin_probs[3] = probs[3] = (0.4 + budget / 2, 0.4, 0.2 - budget / 2)
    parity = reference.judge(flipped, "fp16")
    assert (parity.passed, parity.ties, parity.max_value_error) == (True, 1, 0)
    probs[3] += (0, 2 * budget, -2 * budget)  # the probabilities of a tie are compared
    assert not reference.judge(flipped, "fp16").passed
    probs[3] -= (0, 2 * budget, -2 * budget)
    values[3] = np.nan  # and its value must be a number
    assert not reference.judge(flipped, "fp16").passed
    assert checkpoint.task.prediction == "class"


def test_regressors_know_no_ties() -> None:
    _, reference = reference_of()
    reference.bin_probs[:] = 1 / 3
    run = Shifted(reference_of()[0], 1, 5.0, 0)
    assert reference.judge(run, "fp16").ties == 0


def test_centred_cosine_sees_what_the_plain_one_hides() -> None:
    rng = np.random.default_rng(0)
    cone, other = rng.normal(10, 0.1, (2, 20, 64)).astype(np.float32)
    plain = (cone * other).sum(1) / np.linalg.norm(cone, axis=1) / np.linalg.norm(other, axis=1)
    assert plain.min() > 0.999
    assert np.abs(centred_cosines(cone, other)).max() < 0.6
    np.testing.assert_allclose(centred_cosines(2 * cone + 1, cone), 1, atol=1e-5)
    cone[3, 5] = np.inf
    assert not np.isfinite(centred_cosines(cone, other)).any()


def test_features_are_measured() -> None:
    checkpoint, reference = reference_of()
    run = Shifted(checkpoint, 1, 0, 0)
    good = reference.judge(run, "fp16", reference.features)
    assert good.min_feature_cosine == pytest.approx(1)
    swapped = reference.features[::-1].copy()
    bad = reference.judge(run, "fp16", swapped)
    assert bad.min_feature_cosine is not None
    assert bad.mean_feature_cosine is not None
    assert bad.min_feature_cosine < bad.mean_feature_cosine < 0.9
