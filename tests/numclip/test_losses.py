"""Losses: formulas by hand, and each mode of the weights."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Protocol

import pytest
import torch
from torch import Tensor

from numclip.training.config import RankingMode
from numclip.training.losses import (
    fcrc_image_to_text,
    fcrc_text_to_image,
    image_to_text_weights,
    plain_image_to_text,
    plain_text_to_image,
    text_to_image_weights,
)
from tests.numclip.golden import DIGITS, case, tensor

BOTH = pytest.mark.parametrize("loss", [fcrc_image_to_text, fcrc_text_to_image])


class Loss(Protocol):
    def __call__(self, logits: Tensor, labels: Tensor, mode: RankingMode = ...) -> Tensor: ...


def random_logits(batch: int, bins: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return 20 * torch.randn(batch, bins, generator=generator, dtype=torch.float64)


@BOTH
def test_order_of_the_batch_does_not_matter(loss: Loss) -> None:
    logits, labels = random_logits(16, 5), torch.arange(16) % 4
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(logits[order], labels[order]), loss(logits, labels))
    other = loss(logits[order], labels)  # labels of other images
    assert abs(other - loss(logits, labels)) > 0.1


@BOTH
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("bins", [2, 5])
def test_single_class_batch_is_finite(loss: Loss, batch: int, bins: int) -> None:
    for label in range(bins):
        logits = random_logits(batch, bins).float().requires_grad_()
        value = loss(logits, torch.full((batch,), label))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


@BOTH
def test_right_answers_cost_less(loss: Loss) -> None:
    labels = torch.arange(5)
    right = 30 * torch.eye(5)
    assert loss(right, labels) < 0.01 < 10 < loss(right.flip(0), labels)


def test_far_mistakes_cost_more() -> None:
    label = torch.tensor([0])
    costs = [
        fcrc_image_to_text(5 * torch.eye(5)[k : k + 1], label).item()
        for k in range(5)  # sure of bin k
    ]
    assert costs == sorted(costs)


@BOTH
def test_dtype_follows_the_logits(loss: Loss) -> None:
    for dtype in (torch.float32, torch.float64):
        assert loss(random_logits(4, 5).to(dtype), torch.arange(4)).dtype == dtype


@BOTH
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["released", "corrected"])
def test_weights_are_not_rounded_to_half_precision(
    loss: Loss, half: torch.dtype, mode: RankingMode
) -> None:
    logits, labels = random_logits(16, 101).to(half), torch.arange(16) * 6
    value = loss(logits, labels, mode)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), labels, mode), rtol=0, atol=0)
    if loss is fcrc_image_to_text:  # what rounding would give is another number
        rounded = image_to_text_weights(labels, 101).to(half).float()
        weighted = logits.float() * rounded if mode == "released" else logits + rounded.log()
        assert abs(plain_image_to_text(weighted, labels) - value) > 1e-5


LOGITS = tensor(case("fcrc_ce")[0]["logits"])
LABELS = torch.tensor(case("fcrc_ce")[0]["y"])


def close(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, abs=DIGITS)


def test_golden_image_to_text() -> None:
    _, out = case("fcrc_ce")
    close(fcrc_image_to_text(LOGITS, LABELS, "released"), out["loss"])
    close(fcrc_image_to_text(LOGITS, LABELS, "plain"), out["plain_ce"])
    close(plain_image_to_text(LOGITS, LABELS), out["plain_ce"])
    variant = case("fcrc_ce_expweight_variant")[1]["loss"]
    close(fcrc_image_to_text(LOGITS, LABELS, "corrected"), variant)


def test_golden_negative_logits() -> None:
    given, out = case("fcrc_ce_negative_logits")
    loss = partial(fcrc_image_to_text, tensor(given["logits"]), torch.tensor(given["y"]))
    close(loss(mode="released"), out["released"])
    close(loss(mode="plain"), out["plain_ce"])
    close(loss(mode="corrected"), out["expweight"])


def test_golden_text_to_image() -> None:
    _, out = case("fcrc_kl_missing_class")
    weights = text_to_image_weights(LABELS, 5)
    torch.testing.assert_close(weights.double(), tensor(out["weights"]), atol=DIGITS, rtol=0)
    loss = partial(fcrc_text_to_image, LOGITS, LABELS)
    close(loss("released"), out["loss"])
    close(loss(norm="num_negatives"), out["loss_if_normalised_by_num_negatives"])
    close(loss("plain"), out["plain_kl"])
    close(plain_text_to_image(LOGITS, LABELS), out["plain_kl"])


def test_corrected_text_to_image_by_its_definition() -> None:
    total, present = 0.0, [0, 1, 2, 4]
    for k in present:
        gains = [math.exp(10 * (y == k)) for y in LABELS.tolist()]
        distance = [abs(y - k) for y in LABELS.tolist()]
        weights = [3 * d / sum(distance) if d else 1 for d in distance]  # 3 negatives of 4 images
        powers = [w * math.exp(z) for w, z in zip(weights, LOGITS[:, k].tolist(), strict=True)]
        for gain, power in zip(gains, powers, strict=True):
            target = gain / sum(gains)
            total += target * math.log(target * sum(powers) / power)
    close(fcrc_text_to_image(LOGITS, LABELS, "corrected"), total / len(present))


def test_golden_single_class() -> None:
    given, out = case("fcrc_kl_single_class_batch")
    labels = torch.tensor(given["y"])
    modes: tuple[RankingMode, ...] = ("released", "corrected", "plain")
    for mode in modes:  # there are no negatives
        close(fcrc_text_to_image(LOGITS, labels, mode), out["loss"])


def test_released_scale_shrinks_with_the_batch() -> None:
    given, out = case("fcrc_kl_weight_mean_batch32")
    labels = torch.arange(5).repeat_interleave(torch.tensor(given["y_counts"]))
    for norm, expected in (
        ("released", out["mean_negative_weight_per_class"]),
        ("num_negatives", [1.0] * 5),
    ):
        weights = text_to_image_weights(labels, 5, norm)  # type: ignore[arg-type]
        means = [weights[k, labels != k].mean().item() for k in range(5)]
        assert means == pytest.approx(expected, abs=DIGITS)


@BOTH
def test_corrected_ignores_a_constant(loss: Loss) -> None:
    expected = loss(LOGITS, LABELS, "corrected")
    torch.testing.assert_close(loss(LOGITS - 30, LABELS, "corrected"), expected)
    assert abs(loss(LOGITS - 30, LABELS, "released") - loss(LOGITS, LABELS, "released")) > 1


@BOTH
def test_corrected_is_plain_where_negatives_are_alike(loss: Loss) -> None:
    for positive, negative in product((2.0, -3.0), (1.0, -2.0)):
        labels = torch.arange(3).repeat(3)  # K - 1 = 2 negative texts, but 6 negative images
        logits = torch.full((9, 3), negative).double()
        logits[range(9), labels] = positive
        expected = loss(logits, labels, "plain")
        # the target's mass on negatives, e^-10 each, sees their log weights
        torch.testing.assert_close(loss(logits, labels, "corrected"), expected, atol=1e-4, rtol=0)


@BOTH
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_far_confusion_costs_more_with_any_sign(loss: Loss, sign: float) -> None:
    logits = torch.zeros(3, 3) + 2 * sign
    far, near = logits.clone(), logits.clone()
    far[0, 2] += 1  # image 0 with text 2
    near[0, 1] += 1
    labels = torch.arange(3)
    assert loss(far, labels, "corrected") > loss(near, labels, "corrected") + 0.01
    # Released, at -2: raising a far pair to -1 costs less than raising a near one.
    reversed_order = loss(far, labels, "released") < loss(near, labels, "released")
    assert reversed_order == (sign < 0)


@BOTH
@pytest.mark.parametrize("mode", ["released", "corrected", "plain"])
@pytest.mark.parametrize(("batch", "bins"), [(1, 2), (4, 5), (6, 101)])
def test_finite_in_every_dtype(loss: Loss, mode: RankingMode, batch: int, bins: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        logits = (30 * torch.randn(batch, bins)).to(dtype).requires_grad_()
        value = loss(logits, torch.arange(batch) % bins, mode)
        value.backward()  # type: ignore[no-untyped-call]
        assert value.dtype == (dtype if mode == "plain" else torch.float32)
        assert value.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
