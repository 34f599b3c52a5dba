"""The model on tiny towers: shapes, invariances, and the regressor at its edges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from numclip.model.heads import MIN_DIVISOR, FineRegressor
from numclip.model.model_config import RegressorForm
from numclip.model.numclip import encode_pieces
from tests.numclip.tiny import TASK, TOWERS, images_of, tiny_model

EDGES = (0.0, 10.0, 30.0, 70.0)
FORMS: tuple[RegressorForm, ...] = ("released", "bounded")
BOTH_TOWERS = pytest.mark.parametrize("tower", list(TOWERS))


@BOTH_TOWERS
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_shapes(tower: str, form: RegressorForm) -> None:
    model = tiny_model(tower, regressor=form)
    images = images_of(tower, 3)
    out = model(images)
    assert out.values.shape == (3,)
    assert out.logits.shape == out.bin_probs.shape == (3, TASK.num_bins)
    assert all(tensor.dtype == torch.float32 for tensor in out)
    torch.testing.assert_close(out.bin_probs, out.logits.softmax(1))
    text = model.text_features()
    assert text.shape == (TASK.num_bins, 32)
    torch.testing.assert_close(model(images, text), out)
    assert not torch.allclose(out.values[:1], out.values[1:])  # images matter
    one = model(images[1:2])
    torch.testing.assert_close(one.values[0], out.values[1])  # neighbours do not


@BOTH_TOWERS
@torch.no_grad()
def test_a_mosaic_is_read_by_the_mean_of_its_pieces_features(tower: str) -> None:
    model, side = tiny_model(tower), TOWERS[tower]["vision_cfg"]["image_size"]
    mosaics = torch.randn(2, 3, 3 * side, 3 * side)
    pieces = [
        model.image_encoder(mosaics[:, :, side * i : side * (i + 1), side * j : side * (j + 1)])
        for i in range(3)
        for j in range(3)
    ]
    wanted = torch.stack(pieces).mean(0)
    torch.testing.assert_close(encode_pieces(model.image_encoder, mosaics, side), wanted)
    assert model(mosaics).values.shape == (2,)


@torch.no_grad()
def test_logits_are_scaled_cosines() -> None:
    model = tiny_model()
    logits = model(images_of("vit", 8)).logits
    model.logit_scale.fill_(math.log(7))
    scaled = model(images_of("vit", 8)).logits
    torch.testing.assert_close(scaled, logits * 7 * 0.07)  # open_clip starts at 1 / 0.07
    assert scaled.abs().max() <= 7


@pytest.mark.parametrize("ratio", [0.0, 0.8, 1.0])
@torch.no_grad()
def test_length_of_image_features_does_not_matter(ratio: float) -> None:
    model = tiny_model(adapter_ratio=ratio)
    model.add_module("image_encoder", nn.Identity())  # features in place of images
    features = torch.randn(4, 32)
    logits = model(features).logits
    for scale in (1e-3, 50.0):
        torch.testing.assert_close(model(scale * features).logits, logits)
    assert model(torch.zeros(1, 32)).values.isfinite().all()


@torch.no_grad()
def test_adapter_ratio_blends() -> None:
    features = torch.randn(2, 32)
    learned = tiny_model(adapter_ratio=1.0).image_adapter(features)
    assert learned.min() >= 0
    blended = tiny_model(adapter_ratio=0.25).image_adapter(features)
    torch.testing.assert_close(blended, 0.25 * learned + 0.75 * features)
    assert torch.equal(tiny_model(adapter_ratio=0.0).image_adapter(features), features)


@torch.no_grad()
def test_label_offset_moves_values() -> None:
    images = images_of("vit", 2)
    moved = tiny_model(task=replace(TASK, label_offset=100))(images)
    torch.testing.assert_close(moved.values, tiny_model()(images).values + 100)


@pytest.mark.parametrize("bin_index", range(3))
@torch.no_grad()
def test_bounded_regressor_stays_inside_the_bin(bin_index: int) -> None:
    regressor = FineRegressor(EDGES, "bounded")
    sure = torch.eye(3)[bin_index].repeat(64, 1)  # (B, K)
    low, high = EDGES[bin_index], EDGES[bin_index + 1]
    middle = regressor(100 * torch.randn(64, 3), sure)
    torch.testing.assert_close(middle, torch.full((64,), (low + high) / 2), rtol=0.01, atol=0.1)
    for layer in (regressor.fc, regressor.delta):
        layer.weight.normal_()
    values = regressor(100 * torch.randn(64, 3), sure)
    assert values.min() >= low
    assert values.max() <= high
    for bias, end in ((-100.0, low), (100.0, high)):
        nn.init.zeros_(regressor.delta.weight)
        nn.init.constant_(regressor.delta.bias, bias)
        torch.testing.assert_close(regressor(sure, sure), torch.full((64,), end))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("edges", [EDGES, (-20.0, -10.0, 0.0, 10.0)])
@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_saturated_regressor_is_finite(
    form: RegressorForm, edges: tuple[float, ...], bias: float
) -> None:
    regressor = FineRegressor(edges, form)
    nn.init.constant_(regressor.delta.bias, bias)  # tanh gives exactly -1 or 1
    logits = torch.randn(4, 3, requires_grad=True)
    values = regressor(logits, logits.softmax(1))
    values.sum().backward()
    assert values.isfinite().all()
    for tensor in (logits, *regressor.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@torch.no_grad()
def test_released_form_divides_by_no_less_than_its_limit() -> None:
    regressor = FineRegressor(EDGES)
    nn.init.constant_(regressor.delta.bias, -100.0)
    values = regressor(torch.zeros(3, 3), torch.eye(3))
    torch.testing.assert_close(values, torch.tensor([0.0, 10.0, 30.0]) / MIN_DIVISOR)
