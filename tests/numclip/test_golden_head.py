"""Adapter, logits and regressor against the golden cases, plain and folded."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from numclip.model.heads import FineRegressor
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export.fold import FoldedModel
from tests.numclip.golden import AGE_EDGES, DIGITS, FIVE, LEVELS, case, set_regressor, tensor
from tests.numclip.tiny import TOWERS

REGRESSOR, REGRESSED = case("regressor_age")
LOGITS = tensor(REGRESSOR["logits"])
HEAD, HEAD_OUT = case("head")
FEATURES = tensor(HEAD["features"])


def regressor_of(edges: tuple[float, ...], weights: dict[str, Any] | None = None) -> FineRegressor:
    """Return the released form with golden weights, or with delta = 0."""
    regressor = FineRegressor(edges).double()
    nothing = {"A1": [[0.0] * 5], "b1": [0.0], "A2": [[0.0]] * 5, "b2": [0.0] * 5}
    set_regressor(regressor, weights or nothing)
    return regressor


@pytest.mark.parametrize(
    ("edges", "weights", "expected"),
    [
        (AGE_EDGES, REGRESSOR, REGRESSED["y"]),
        (LEVELS, REGRESSOR, case("regressor_levels")[1]["y"]),
        (AGE_EDGES, None, case("regressor_zero_delta_is_expected_lower_bound")[1]["y"]),
    ],
    ids=["age", "levels", "zero-delta"],
)
def test_regressor(
    edges: tuple[float, ...], weights: dict[str, Any] | None, expected: list[float]
) -> None:
    assert list(edges[:-1]) == REGRESSOR["lower"] or edges == LEVELS
    probs = LOGITS.softmax(1)
    torch.testing.assert_close(probs, tensor(REGRESSED["prob"]), atol=DIGITS, rtol=0)
    values = regressor_of(edges, weights)(LOGITS, probs)
    torch.testing.assert_close(values, tensor(expected), atol=5e-6, rtol=0)


@torch.no_grad()
def test_delta_that_reaches_the_middle_of_a_bin() -> None:
    given, out = case("regressor_delta_for_bin_mid")
    regressor = regressor_of(AGE_EDGES)
    regressor.delta.bias[1:] = tensor(out["delta"]).atanh()
    values = regressor(torch.zeros(5, 5).double(), torch.eye(5).double())[1:]  # each bin for sure
    torch.testing.assert_close(values, tensor(given["mid"]), atol=1e-3, rtol=0)
    middles = [(a + b) / 2 for a, b in pairwise(AGE_EDGES[1:])]
    assert middles[:3] == given["mid"][:3]  # for the last, the case ends the range at 100


class Constant(nn.Module):
    """Stand in for the text tower: always the same features."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)

    def forward(self, sentences: Tensor, eot_index: Tensor) -> Any:
        return self.features


def head(ratio: float = 0.8, logit_scale: float = HEAD["logit_scale"]) -> NumClip:
    """Return a model of width 4 that takes image features for images."""
    config = ModelConfig(TOWERS["vit"] | {"embed_dim": 4}, ratio, adapter_reduction=2)
    model = NumClip(config, FIVE).double().eval()
    model.add_module("image_encoder", nn.Identity())
    model.add_module("text_encoder", Constant(tensor(HEAD["text"])))
    if ratio:  # 0 bypasses the adapter, which then holds nothing
        down, up = model.image_adapter.parameters()
        down.data.copy_(tensor(HEAD["adapter_down"]))
        up.data.copy_(tensor(HEAD["adapter_up"]))
    model.logit_scale.data.fill_(logit_scale)
    assert isinstance(model.regressor, FineRegressor)
    set_regressor(model.regressor, REGRESSOR)
    return model


def test_head() -> None:
    logits = head()(FEATURES).logits
    torch.testing.assert_close(logits, tensor(HEAD_OUT["logits"]), atol=3e-5, rtol=0)
    folded = FoldedModel(head())
    row = tensor(HEAD_OUT["folded_text_row0"])
    torch.testing.assert_close(folded.bin_embeddings[0], row, atol=3e-5, rtol=0)
    _, probs = folded(FEATURES)
    got = probs.log() - probs.log().mean(1, keepdim=True)  # logits, but for a constant of each row
    expected = tensor(HEAD_OUT["folded_logits"])
    expected -= expected.mean(1, keepdim=True)
    torch.testing.assert_close(got, expected, atol=3e-5, rtol=0)


def test_head_without_adapter() -> None:
    logits = head(ratio=0)(FEATURES).logits
    torch.testing.assert_close(logits, tensor(HEAD_OUT["no_adapter_logits"]), atol=3e-5, rtol=0)
    _, probs = FoldedModel(head(ratio=0))(FEATURES)
    torch.testing.assert_close(probs, logits.softmax(1), atol=1e-12, rtol=0)


def test_head_then_regressor() -> None:
    given, out = case("head_then_regressor")
    model = head(logit_scale=tensor(5).log().item())
    plain = model(FEATURES)
    values, probs = FoldedModel(model)(FEATURES)
    torch.testing.assert_close(plain.logits, tensor(given["logits"]), atol=DIGITS, rtol=0)
    for got in (plain.bin_probs, probs):
        expected = tensor(HEAD_OUT["prob_at_logit_scale_ln5"])
        torch.testing.assert_close(got, expected, atol=DIGITS, rtol=0)
    for got in (plain.values, values):
        torch.testing.assert_close(got, tensor(out["y"]), atol=DIGITS, rtol=0)
