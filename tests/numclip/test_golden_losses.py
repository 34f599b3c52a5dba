"""Losses against the golden cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from numclip.model.numclip import Output
from numclip.training.config import TrainConfig
from numclip.training.losses import (
    TARGET_GAIN,
    batch_losses,
    fcrc_image_to_text,
    fcrc_text_to_image,
)
from tests.numclip.golden import DIGITS, case, tensor

Loss = Callable[[Tensor, Tensor], Tensor]
LOGITS = tensor(case("fcrc_ce")[0]["logits"])


def gradient(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Return d loss / d logits, (B, K)."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, labels), logits)[0]


def gradient_at_zero(loss: Loss, labels: Tensor, bins: int) -> Tensor:
    """Return d loss / d logits (B, K) at logits 0, where every softmax is uniform."""
    return gradient(loss, torch.zeros(len(labels), bins, dtype=torch.float64), labels)


def image_to_text_weights(labels: Tensor, bins: int) -> Tensor:
    """Read the weights (B, K) off the gradient w (1 / K - [k = y]) / B."""
    slope = 1 / bins - nn.functional.one_hot(labels, bins).double()
    return gradient_at_zero(fcrc_image_to_text, labels, bins) * len(labels) / slope


def text_to_image_weights(labels: Tensor, bins: int) -> Tensor:
    """Read the weights (K, B) off the gradient w (1 / B - target) / present bins."""
    positive = nn.functional.one_hot(labels, bins).double().T  # (K, B)
    uniform_minus_target = 1 / len(labels) - (TARGET_GAIN * positive).softmax(1)
    slopes = gradient_at_zero(fcrc_text_to_image, labels, bins).T
    return slopes * positive.any(1).sum() / uniform_minus_target


def test_image_to_text() -> None:
    given, out = case("fcrc_ce")
    labels = torch.tensor(given["y"])
    assert fcrc_image_to_text(LOGITS, labels).item() == pytest.approx(out["loss"], abs=DIGITS)
    each = [
        fcrc_image_to_text(LOGITS[b : b + 1], labels[b : b + 1]).item() for b in range(len(labels))
    ]
    assert each == pytest.approx(out["per_sample"], abs=DIGITS)
    weights = image_to_text_weights(labels, given["d"])
    torch.testing.assert_close(weights, tensor(out["weights"]), atol=DIGITS, rtol=0)
    torch.testing.assert_close(
        weights * LOGITS, tensor(out["weighted_logits"]), atol=DIGITS, rtol=0
    )


def test_image_to_text_weights_of_each_bin() -> None:
    given, out = case("fcrc_weight_rows_d5")
    weights = image_to_text_weights(torch.arange(given["d"]), given["d"])
    for label, row in out.items():
        torch.testing.assert_close(weights[int(label)], tensor(row), atol=DIGITS, rtol=0)


def test_image_to_text_of_negative_logits() -> None:
    given, out = case("fcrc_ce_negative_logits")
    loss = fcrc_image_to_text(tensor(given["logits"]), torch.tensor(given["y"]))
    assert loss.item() == pytest.approx(out["released"], abs=DIGITS)


def test_text_to_image_with_a_missing_class() -> None:
    given, out = case("fcrc_kl_missing_class")
    labels = torch.tensor(given["y"])
    assert fcrc_text_to_image(LOGITS, labels).item() == pytest.approx(out["loss"], abs=DIGITS)
    weights = text_to_image_weights(labels, given["d"])
    present = [0, 1, 2, 4]
    assert out["num_slots"] == len(present)
    torch.testing.assert_close(
        weights[present], tensor(out["weights"])[present], atol=DIGITS, rtol=0
    )
    pull = gradient(fcrc_text_to_image, LOGITS, labels)
    assert not pull[:, 3].any()  # a bin that the batch lacks
    assert pull[:, present].all()


def test_text_to_image_with_duplicates() -> None:
    given, out = case("fcrc_kl_duplicates")
    labels = torch.tensor(given["y"])
    assert fcrc_text_to_image(LOGITS, labels).item() == pytest.approx(out["loss"], abs=DIGITS)
    assert fcrc_image_to_text(LOGITS, labels).item() == pytest.approx(out["ce"], abs=DIGITS)
    pull = gradient_at_zero(fcrc_text_to_image, labels, given["d"])[:, 2]
    expected = tensor(out["weights_row2"]) * (1 / 4 - tensor(out["target_row2"])) / 2
    torch.testing.assert_close(pull, expected, atol=DIGITS, rtol=0)


def test_text_to_image_with_a_single_class() -> None:
    given, out = case("fcrc_kl_single_class_batch")
    labels = torch.tensor(given["y"])
    assert fcrc_text_to_image(LOGITS, labels).item() == pytest.approx(out["loss"], abs=DIGITS)
    # d loss / d logits = weights (softmax(weights * logits) - target)
    expected = LOGITS[:, 3].softmax(0) - tensor(out["target_row3"])
    expected *= tensor(out["weights_row3"])
    pull = gradient(fcrc_text_to_image, LOGITS, labels)[:, 3]
    torch.testing.assert_close(pull, expected, atol=DIGITS, rtol=0)


def test_text_to_image_weights_depend_on_the_batch_size() -> None:
    given, out = case("fcrc_kl_weight_mean_batch32")
    labels = torch.arange(given["d"]).repeat_interleave(torch.tensor(given["y_counts"]))
    weights = text_to_image_weights(labels, given["d"])
    means = [weights[k][labels != k].mean().item() for k in range(given["d"])]
    assert means == pytest.approx(out["mean_negative_weight_per_class"], abs=DIGITS)


def test_l1_and_the_sum_of_losses() -> None:
    given, out = case("l1_reg_loss")
    bins = torch.tensor(case("fcrc_ce")[0]["y"])
    fine = tensor(given["pred"])
    output = Output(fine, LOGITS.softmax(1), LOGITS, fine, LOGITS)
    whole = batch_losses(output, tensor(given["y"]), bins, TrainConfig())
    assert whole["l1"].item() == pytest.approx(out["l1"], abs=DIGITS)
    assert whole["loss"].item() == pytest.approx(out["total_ce+kl+l1_with_Y"], abs=DIGITS)
    halved = batch_losses(output, tensor(given["y"]), bins, TrainConfig(regression_weight=0.5))
    assert (whole["loss"] - halved["loss"]).item() == pytest.approx(out["l1"] / 2, abs=DIGITS)
