"""Losses of distributions: formulas by hand, properness, and what reaches the training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from numclip.model.backbone import image_config
from numclip.model.heads import Distribution
from numclip.tasks import load_task
from numclip.training.config import TrainConfig
from numclip.training.losses import batch_losses
from numclip.training.ordinal_losses import (
    distribution_loss,
    ranked_probability_score,
    soft_cross_entropy,
    soft_targets,
    target_width,
    two_points,
)
from tests.numclip.tiny import TASK, TOWERS, images_of, tiny_model

AGE = Distribution(load_task("age"))
EVEN = torch.linspace(0, 30, 101)


def test_soft_target_is_a_gaussian_on_the_grid() -> None:
    target = soft_targets(AGE.grid, torch.tensor([30.0, 0.0, 40.4]), width=3.0)
    for row, label in enumerate((30.0, 0.0, 40.4)):
        weights = [math.exp(-((g - label) ** 2) / 18) for g in range(102)]
        want = [w / sum(weights) for w in weights]
        assert target[row].tolist() == pytest.approx(want, abs=1e-6)
    assert (target[0] @ AGE.grid).item() == pytest.approx(30, abs=1e-4)
    assert target_width(AGE.grid) == pytest.approx(2.02)
    assert target_width(torch.arange(5.0)) == 0.5
    torch.testing.assert_close(
        soft_targets(AGE.grid, torch.tensor([7.0])),
        soft_targets(AGE.grid, torch.tensor([7.0]), 2.02),
    )


def test_cross_entropy_by_hand() -> None:
    scores, target = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.25, 0.75]])
    want = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert soft_cross_entropy(scores, target).item() == pytest.approx(want)


def test_ranked_score_by_hand() -> None:
    scores = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]).log()
    target = torch.eye(3)[[0, 2]]
    # cumulated .2 .5: against 1 1 and 0 0
    assert ranked_probability_score(scores, target).item() == pytest.approx(
        ((0.64 + 0.25) + (0.04 + 0.25)) / 2
    )


@pytest.mark.parametrize("truth", [[0.2] * 5, [0.6, 0.3, 0.1, 0, 0], [0.5, 0, 0, 0, 0.5]])
def test_ranked_score_is_proper(truth: list[float]) -> None:
    """The best scores of an uncertain image are the true probabilities; FCRC's are not."""
    scores = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=300, line_search_fn="strong_wolfe")
    weights = torch.tensor(truth, dtype=torch.float64)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        row = scores[:1]
        loss = sum(
            w * ranked_probability_score(row, torch.eye(5, dtype=torch.float64)[k : k + 1])
            for k, w in enumerate(weights)
        )
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert scores[0].softmax(0).tolist() == pytest.approx(truth, abs=5e-3)


def test_ranked_score_costs_more_the_farther() -> None:
    sure = 20 * torch.eye(5)
    costs = [ranked_probability_score(sure[k : k + 1], torch.eye(5)[:1]).item() for k in range(5)]
    assert costs == pytest.approx([0, 1, 2, 3, 4], abs=1e-4)


@pytest.mark.parametrize("label", [0.0, 0.3, 12.0, 12.1, 29.95, 30.0])
def test_two_points_have_the_label_as_mean(label: float) -> None:
    target = two_points(EVEN, torch.tensor([label]))
    assert (target @ EVEN).item() == pytest.approx(label, abs=1e-5)
    assert (target > 1e-6).sum() <= 2
    assert target.min() >= 0
    assert target.sum().item() == pytest.approx(1)
    outside = two_points(EVEN, torch.tensor([-3.0, 99.0]))
    assert outside.argmax(1).tolist() == [0, 100]


def test_on_a_grid_it_is_the_continuous_score_in_label_units() -> None:
    """Integrate (F(x) - [x >= y])^2 over the range, F the cumulated probabilities as steps."""
    task = load_task("age")
    head = Distribution(task, 51)
    scores = torch.randn(1, 51, generator=torch.Generator().manual_seed(2))
    label = float(head.grid[20])
    got = distribution_loss(head, scores, torch.tensor([label]), width=None, ranked=True).item()
    x = np.linspace(0, 101, 2_000_001)[:-1]
    probs = scores.softmax(1)[0].double().numpy()
    cumulated = probs.cumsum()[np.searchsorted(head.grid.numpy(), x, side="right") - 1]
    want = float(((cumulated - (x >= label)) ** 2).mean() * 101)
    assert got == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("mode", ["released", "rps"])
@pytest.mark.parametrize("head", ["numclip", "distribution", "probe"])
def test_parts_of_each_head(head: str, mode: str) -> None:
    clip = image_config(TOWERS["vit"])
    model = tiny_model(clip=clip, head=head, vectors="prototypes")
    out = model(images_of("vit", 6))
    labels, bins = torch.linspace(0, 30, 6), torch.tensor([0, 0, 1, 1, 2, 2])
    config = TrainConfig(loss_mode=mode, regression_weight=0.5, target_width=2.5)  # type: ignore[arg-type]
    found = batch_losses(out, labels, bins, config, model.regressor)
    parts = {name: value.detach() for name, value in found.items()}
    names = {"numclip": "image_to_text text_to_image", "distribution": "cross_entropy"}
    names |= {"probe": "cross_entropy"}
    expected = ["rps"] if mode == "rps" else names[head].split()
    assert list(parts) == [*expected, "l1", "loss"]
    total = sum(float(parts[name]) for name in expected) + 0.5 * float(parts["l1"])
    assert float(parts["loss"]) == pytest.approx(total)
    assert float(parts["l1"]) == pytest.approx(float((out.fine.detach() - labels).abs().mean()))
    if head == "distribution" and mode != "rps":
        target = soft_targets(model.regressor.get_buffer("grid"), labels, 2.5)
        want = soft_cross_entropy(out.scores, target).detach()
        torch.testing.assert_close(parts["cross_entropy"], want)
        offset = batch_losses(out, labels + 7, bins, config, model.regressor, 7.0)
        torch.testing.assert_close(offset["cross_entropy"].detach(), want)
    if head == "probe":
        chosen = out.bin_probs.detach()[torch.arange(6), bins]
        if mode != "rps":
            torch.testing.assert_close(parts["cross_entropy"], -chosen.log().mean())


@pytest.mark.parametrize("mode", ["released", "rps"])
def test_a_distribution_learns_a_picture(mode: str) -> None:
    model = tiny_model(clip=image_config(TOWERS["vit"]), head="distribution", vectors="prototypes")
    images, labels = images_of("vit", 6), torch.tensor([3.0, 7.0, 12.0, 18.0, 24.0, 29.0])
    bins = torch.tensor([TASK.bin_of(label) for label in labels.tolist()])
    config = TrainConfig(loss_mode=mode)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        parts = batch_losses(model(images), labels, bins, config, model.regressor)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (model(images).fine - labels).abs().max() < 1.5
    assert model(images).bin_probs.argmax(1).tolist() == bins.tolist()
