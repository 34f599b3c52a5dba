"""The ordinality score: golden numbers, and embeddings whose order is known."""

from __future__ import annotations

import math

import pytest
import torch

from numclip.ordinality import ordinality
from numclip_runtime import UsageError
from tests.numclip.golden import DIGITS, case, tensor

GIVEN, EXPECTED = case("ordinality")


@pytest.mark.parametrize("span", [1, 2, 4, None])
def test_golden(span: int | None) -> None:
    expected = EXPECTED[str(span or 4)]
    assert ordinality(tensor(GIVEN["proto"]), span) == pytest.approx(expected, abs=DIGITS)


def test_order_on_an_arc_is_perfect_and_lengths_do_not_matter() -> None:
    angles = torch.linspace(0, math.pi / 2, 61, dtype=torch.float64)
    arc = torch.stack([angles.cos(), angles.sin()], 1)
    assert ordinality(arc) == 1.0
    assert ordinality(arc * torch.rand(61, 1)) == 1.0
    shuffled = arc[torch.randperm(61, generator=torch.Generator().manual_seed(0))]
    assert 0.4 < ordinality(shuffled) < 0.65


@pytest.mark.parametrize(("bins", "span"), [(1, None), (5, 0), (5, -1)])
def test_too_few(bins: int, span: int | None) -> None:
    with pytest.raises(UsageError, match="needs 2 embeddings and a span of 1 at least, got"):
        ordinality(torch.ones(bins, 2), span)
