"""The headline number: by hand, the same for model, folded model and ONNX graph."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip, point_estimate
from numclip.tasks import load_task
from numclip.training.config import TrainConfig
from numclip.training.losses import batch_losses
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded, operators
from numclip_runtime.task import PredictionKind, Task

CLIP = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PROBS = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1], [0.6, 0.0, 0.0, 0.0, 0.4]])
FINE = torch.tensor([1.25, 3.5])


def task(name: str, prediction: PredictionKind) -> Task:
    return replace(load_task(name), prediction=prediction)


@pytest.mark.parametrize(
    ("name", "prediction", "expected"),
    [
        ("age", "regressor", [1.25, 3.5]),
        # the means of 0 to 12, 13 to 18, 19 to 34, 35 to 64, and 65 to 101
        ("age", "class", [26.5, 6.0]),
        ("age", "expected", [0.6 + 3.1 + 10.6 + 9.9 + 8.3, 3.6 + 33.2]),
        ("quality", "class", [50.0, 10.0]),  # centres
        ("aesthetics", "regressor", [2.25, 4.5]),  # label offset 1
        ("aesthetics", "class", [3.0, 1.0]),  # classes, label offset 1
        ("aesthetics", "expected", [3.0, 2.6]),
    ],
)
def test_headline(name: str, prediction: PredictionKind, expected: list[float]) -> None:
    values = point_estimate(task(name, prediction), FINE, PROBS)
    assert values.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("prediction", get_args(PredictionKind))
def test_folded_model_agrees(prediction: PredictionKind) -> None:
    torch.manual_seed(0)
    chosen = task("aesthetics", prediction)
    model = NumClip(ModelConfig(CLIP), chosen).eval()
    images = torch.randn(5, 3, 16, 16)
    with torch.inference_mode():
        out = model(images)
        values, probs = FoldedModel(model)(images)
    assert torch.allclose(out.values, point_estimate(chosen, out.fine - 1, out.bin_probs))
    assert torch.allclose(values, out.values, atol=1e-5)  # float32 rounding, label units
    assert torch.allclose(probs, out.bin_probs, atol=1e-6)


def test_class_model_trains_its_regressor_and_exports_without_it() -> None:
    model = NumClip(ModelConfig(CLIP), task("historical", "class"))
    images = torch.randn(2, 3, 16, 16)
    assert not model(images).values.requires_grad
    labels, bins = torch.tensor([0.0, 4.0]), torch.tensor([0, 4])
    parts = batch_losses(model(images), labels, bins, TrainConfig())
    parts["l1"].backward()  # type: ignore[no-untyped-call]
    assert model.regressor.get_parameter("fc.weight").grad is not None
    found = operators(onnx_from_folded(FoldedModel(model.eval()), 16))
    assert "ArgMax" in found
    assert "Tanh" not in found  # of the fine regressor
