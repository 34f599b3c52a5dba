"""What must hold for any batch; numbers by hand are in test_golden_losses.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from numclip.training.losses import fcrc_image_to_text, fcrc_text_to_image

Loss = Callable[[Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("loss", [fcrc_image_to_text, fcrc_text_to_image])


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
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert loss(random_logits(4, 5).to(dtype), torch.arange(4)).dtype == dtype
