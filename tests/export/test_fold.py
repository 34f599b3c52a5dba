"""A folded model equals its checkpoint, and is free of all that is constant."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from numclip.evaluation.costs import parameter_counts
from numclip.model.model_config import RegressorForm
from numclip_export.fold import FoldedModel
from tests.numclip.tiny import TASK, TOWERS, images_of, tiny_model


@pytest.mark.parametrize("tower", list(TOWERS))
@pytest.mark.parametrize("form", ["released", "bounded"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8, 1.0])
@torch.no_grad()
def test_folded_equals_unfolded(ratio: float, form: RegressorForm, tower: str) -> None:
    model = tiny_model(tower, adapter_ratio=ratio, regressor=form)
    model.logit_scale.fill_(3.0)
    images = images_of(tower, 6)
    expected = model(images)
    values, probs = FoldedModel(model)(images)
    torch.testing.assert_close(values, expected.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(probs, expected.bin_probs, atol=1e-5, rtol=0)
    assert expected.bin_probs.std(0).min() > 1e-3  # images differ, so this can fail


@torch.no_grad()
def test_label_offset() -> None:
    images = images_of("vit", 2)
    plain, _ = FoldedModel(tiny_model())(images)
    model = tiny_model(task=replace(TASK, label_offset=1.5))
    values, _ = FoldedModel(model)(images)
    torch.testing.assert_close(values, plain + 1.5)
    torch.testing.assert_close(values, model(images).values)


@pytest.mark.parametrize("scale", [1e-3, 50.0])
@torch.no_grad()
def test_length_of_image_features_does_not_matter(scale: float) -> None:
    model = tiny_model()
    model.add_module("image_encoder", torch.nn.Identity())  # features in place of images
    folded = FoldedModel(model)
    features = torch.randn(4, 32)
    for got, expected in zip(folded(scale * features), folded(features), strict=True):
        torch.testing.assert_close(got, expected)
    assert all(out.isfinite().all() for out in folded(torch.zeros(1, 32)))


@pytest.mark.parametrize(("ratio", "adapter"), [(0.0, set()), (0.8, {"down.weight", "up.weight"})])
def test_nothing_of_the_text_side_is_left(ratio: float, adapter: set[str]) -> None:
    folded = FoldedModel(tiny_model(adapter_ratio=ratio))
    names = {name for name in folded.state_dict() if not name.startswith("image_encoder.")}
    regressor = {
        f"regressor.{layer}.{kind}" for layer in ("fc", "delta") for kind in ("weight", "bias")
    }
    assert names == {"bin_embeddings"} | adapter | regressor
    assert not folded.training
    assert not folded.bin_embeddings.requires_grad


def test_folding_leaves_the_model_alone() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = FoldedModel(model)
    folded.bin_embeddings.zero_()
    assert folded.up is not None
    with torch.no_grad():
        folded.up.weight.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_parameter_counts() -> None:
    model = tiny_model()
    counts = parameter_counts(model)
    assert counts["image_adapter"] == 2 * 32 * 8
    assert counts["regressor"] == (3 * 6 + 6) + (6 * 3 + 3)
    assert sum(counts.values()) + 1 == sum(p.numel() for p in model.parameters())  # logit_scale
