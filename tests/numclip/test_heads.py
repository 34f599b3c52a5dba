"""The heads beside NumCLIP's: a distribution over numbers, and a linear probe, by formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.model.backbone import image_config
from numclip.model.heads import Distribution, Probe, compared_phrases, number_grid
from numclip.model.model_config import ModelConfig
from numclip.tasks import load_task
from numclip_export.fold import FoldedModel
from numclip_runtime import Task, UsageError
from tests.numclip.tiny import TASK, TOWERS, images_of, spec_of, tiny_model

AGE = load_task("age")
CLASSES = load_task("aesthetics")
FORMS: dict[str, dict[str, Any]] = {
    "distribution of words": {"head": "distribution"},
    "distribution": {"head": "distribution", "vectors": "prototypes", "grid_points": 20},
    "probe": {"head": "probe", "clip": image_config(TOWERS["vit"])},
}


def test_default_grids() -> None:
    grid, shares = number_grid(AGE)  # 0 to 101, in bins from 0, 13, 19, 35, 65
    assert grid.tolist() == list(range(102))
    assert shares.sum(0).tolist() == [13, 6, 16, 30, 37]
    assert [int(grid[row.argmax().item()]) for row in shares.T] == [0, 13, 19, 35, 65]
    grid, shares = number_grid(CLASSES)
    assert grid.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(shares, torch.eye(5))
    wide = Task("price", "EUR", (0, 10, 1e6), ("low", "high"))
    grid, shares = number_grid(wide)
    assert len(grid) == 101
    assert shares[0].tolist() == pytest.approx([10 / 5000, 1 - 10 / 5000])
    quality, _ = number_grid(Task("quality", "", (1, 2, 4.5, 5), ("bad", "fair", "good")))
    assert len(quality) == 101
    assert len(number_grid(replace(AGE, whole_numbers=False))[0]) == 101
    assert len(number_grid(replace(AGE, bin_edges=(0, 13, 19, 35, 65, 500)))[0]) == 101


def test_whole_numbers_of_labels_with_an_offset() -> None:
    half = Task("x", "", (0, 12, 24), ("a", "b"), label_offset=0.5, whole_numbers=True)
    grid, shares = number_grid(half)  # labels 1 .. 24 are the model's 0.5 .. 23.5
    assert grid.tolist() == [n + 0.5 for n in range(24)]
    assert shares.sum(0).tolist() == [12, 12]


@pytest.mark.parametrize("points", [2, 7, 101])
def test_shares_are_overlaps_of_cells_and_bins(points: int) -> None:
    task = Task("x", "", (-1, 0.35, 0.5, 4), ("a", "b", "c"))
    grid, shares = number_grid(task, points)
    torch.testing.assert_close(shares.sum(1), torch.ones(points))
    fine = np.linspace(-1, 4, 400_001)  # each small number goes to its nearest point
    owner = np.abs(fine[:, None] - grid.numpy()).argmin(1) if points < 10 else None
    if owner is not None:
        bins = np.searchsorted(task.bin_edges[1:-1], fine, side="right")
        for m in range(points):
            counted = np.bincount(bins[owner == m], minlength=3) / (owner == m).sum()
            np.testing.assert_allclose(shares[m], counted, atol=1e-4)
    assert (shares.sum(0) > 0).all()


def test_distribution_reads_out_expectation_and_sums() -> None:
    head = Distribution(AGE)
    scores = torch.randn(4, 102, generator=torch.Generator().manual_seed(1))
    read = head.readout(scores)
    probs = np.exp(scores.double().numpy())
    probs /= probs.sum(1, keepdims=True)
    np.testing.assert_allclose(read.fine, probs @ np.arange(102), rtol=1e-5)
    sums = np.add.reduceat(probs, [0, 13, 19, 35, 65], axis=1)
    np.testing.assert_allclose(read.bin_probs, sums, rtol=1e-5)
    torch.testing.assert_close(read.logits.softmax(1), read.bin_probs)  # temperature 1
    sharper = (read.logits / 0.5).softmax(1)
    np.testing.assert_allclose(sharper, sums**2 / (sums**2).sum(1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sure_distribution_is_finite(kind: torch.dtype) -> None:
    scores = torch.zeros(1, 102)
    scores[0, 40] = 200.0
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        read = Distribution(AGE).readout(scores)
    assert read.logits.isfinite().all()
    assert read.fine.item() == pytest.approx(40, abs=0.2)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("task", "thresholds"),
    [
        (replace(AGE, whole_numbers=True), [12.5, 18.5, 34.5, 64.5]),
        (replace(AGE, whole_numbers=False), [13, 19, 35, 65]),
        (CLASSES, [0.5, 1.5, 2.5, 3.5]),
        (Task("x", "", (0, 2.25, 5), ("a", "b"), whole_numbers=True), [2.5]),
    ],
)
def test_probe_by_its_formula(task: Task, thresholds: list[float]) -> None:
    head = Probe(task, 3)
    head.set_line(torch.tensor([1.0, -2.0, 0.5]), 3.0, 2.0)
    features = torch.tensor([[1.0, 0.5, 4.0], [30.0, -3.0, 0.0]])
    read = head.readout(features)
    for row, value in enumerate((5.0, 39.0)):
        assert read.fine[row].item() == pytest.approx(value)
        below = [0.0, *(logistic((t - value) / 2) for t in thresholds), 1.0]
        want = [b - a for a, b in pairwise(below)]
        assert read.bin_probs[row].tolist() == pytest.approx(want, rel=1e-4, abs=1e-12)
    torch.testing.assert_close(read.logits.softmax(1), read.bin_probs, atol=1e-6, rtol=0)


def test_numbers_are_named_in_words() -> None:
    config = ModelConfig(TOWERS["vit"], head="distribution")
    task = replace(AGE, label_offset=1)
    assert compared_phrases(config, task)[:2] == ("1 years", "2 years")
    assert compared_phrases(config, CLASSES) == CLASSES.phrases
    assert compared_phrases(ModelConfig(TOWERS["vit"]), task) == task.phrases
    even = compared_phrases(replace(config, grid_points=5), TASK)
    assert even == ("0 points", "7.5 points", "15 points", "22.5 points", "30 points")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@torch.no_grad()
def test_round_trip_and_fold(form: str, temperature: float, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form], adapter_ratio=0.0, task=replace(TASK, label_offset=100))
    model.logit_scale.fill_(3.0)
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model, spec_of("vit")))
    loaded = load_checkpoint(tmp_path / "a.pt").model
    assert loaded.config == model.config
    images = images_of("vit", 5)
    want = model(images)
    assert torch.equal(loaded(images).values, want.values)
    values, probs = FoldedModel(loaded, temperature)(images)
    torch.testing.assert_close(values, want.values, atol=1e-4, rtol=0)
    calibrated = (want.logits / temperature).softmax(1)
    torch.testing.assert_close(probs, calibrated, atol=1e-5, rtol=0)
    assert probs.std(0).max() > 1e-3
    assert (want.values >= 100).all()
    left = [k for k in FoldedModel(loaded).state_dict() if not k.startswith("image_encoder.")]
    assert not any("text" in name or "prototypes" in name for name in left)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"head": "forest"}, "head must be one of numclip, distribution, probe, got 'forest'"),
        ({"vectors": "sounds"}, "vectors must be one of words, prototypes"),
        ({"grid_points": 1}, "grid_points must be from 2 to 1,000, got 1"),
        ({"grid_points": 10**9}, "grid_points must be from 2 to 1,000"),
        ({"head": "distribution", "adapter_width": 3}, "'distribution' has no adapter"),
    ],
)
def test_configurations_that_are_none(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ModelConfig(TOWERS["vit"], **given)


def test_small_probabilities_of_a_probe_keep_their_digits() -> None:
    head = Probe(replace(AGE, whole_numbers=False), 1)
    head.set_line(torch.tensor([1.0]), 0.0, 2.0)
    read = head.readout(torch.tensor([[0.3], [41.0], [99.0]]))
    for row, value in enumerate((0.3, 41.0, 99.0)):
        odds = [Fraction(math.exp((t - value) / 2)) for t in (13, 19, 35, 65)]
        below = [Fraction(0), *(o / (1 + o) for o in odds), Fraction(1)]
        want = [math.log(b - a) for a, b in pairwise(below)]
        assert min(want) < -14
        assert read.logits[row].tolist() == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_probe_of_a_hopeless_picture_is_still_a_distribution() -> None:
    head = Probe(AGE, 1)
    read = head.readout(torch.tensor([[1e6], [-1e6]]))
    torch.testing.assert_close(read.bin_probs.sum(1), torch.ones(2))
    assert read.logits.isfinite().all()
