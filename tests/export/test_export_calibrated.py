"""Temperature in the graph: probabilities feel it, values do not, and parity sees a wrong one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export import ExportOptions, run_export
from numclip_export.fold import FoldedModel
from numclip_export.parity import ParityError
from numclip_runtime import Calibration, ModelError, Preprocessing, Task, load

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "head_width": 32, "layers": 1, "width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, "layers": 1, "width": 64},
    "quick_gelu": False,
}
TASK = Task("quality", "", (0, 10, 20, 40), ("low", "middle", "high"), label_offset=3)


def calibration(temperature: float) -> Calibration:
    return Calibration(temperature, 2.0, (0.5, 0.9), (0.7, 1.9), 40)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Return a random model whose probabilities are neither even nor certain."""
    torch.manual_seed(0)
    model = NumClip(ModelConfig(CLIP), TASK).eval()
    model.logit_scale.data.fill_(3.0)
    return Checkpoint(model, Preprocessing(crop=8, resize=10), calibration=calibration(2.5))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_only_the_probabilities_feel_the_temperature(
    checkpoint: Checkpoint, images: torch.Tensor, temperature: float
) -> None:
    calibrated = replace(checkpoint, calibration=calibration(temperature))
    with torch.inference_mode():
        raw = checkpoint.model(images)
        values, probs = calibrated.outputs(images)
        folded_values, folded_probs = FoldedModel(checkpoint.model, temperature)(images)
    assert torch.equal(values, raw.values)
    torch.testing.assert_close(probs, torch.softmax(raw.logits / temperature, -1))
    torch.testing.assert_close(folded_values, values, atol=1e-4, rtol=0)
    torch.testing.assert_close(folded_probs, probs, atol=1e-5, rtol=0)
    if temperature != 1:
        assert (probs - raw.bin_probs).abs().max() > 0.01


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_exported_file_equals_the_calibrated_checkpoint(
    checkpoint: Checkpoint, images: torch.Tensor, tmp_path: Path, temperature: float
) -> None:
    calibrated = replace(checkpoint, calibration=calibration(temperature))
    save_checkpoint(tmp_path / "a.pt", calibrated)
    done = run_export(ExportOptions(tmp_path / "a.pt", tmp_path / "a.onnx"))
    assert done.parity is not None
    assert done.parity.passed
    assert done.details["checkpoint"]["calibration"]["temperature"] == temperature
    with torch.inference_mode():
        values, probs = calibrated.outputs(images)
    with load(tmp_path / "a.onnx") as predictor:
        assert predictor.metadata.calibration == calibrated.calibration
        got_values, got_probs = predictor.backend.run(images.numpy())
        intervals = [item.interval for item in predictor.predict_inputs(images.numpy())]
    np.testing.assert_allclose(got_values, values.numpy(), atol=1e-4)
    np.testing.assert_allclose(got_probs, probs.numpy(), atol=1e-5)
    assert calibrated.calibration is not None
    expected = calibrated.calibration.intervals(values.numpy(), probs.numpy(), TASK)
    assert expected is not None
    np.testing.assert_allclose(np.array(intervals), expected, atol=1e-3)


def test_parity_refuses_a_graph_without_the_temperature(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    monkeypatch.setattr(
        "numclip_export.export.FoldedModel",
        lambda model, temperature, **form: FoldedModel(model, **form),
    )
    with pytest.raises(ParityError, match="its probabilities by"):
        run_export(ExportOptions(tmp_path / "a.pt", tmp_path / "a.onnx"))
    assert not (tmp_path / "a.onnx").exists()


def test_checkpoint_keeps_its_calibration(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for expected in (checkpoint.calibration, None):
        save_checkpoint(tmp_path / "a.pt", replace(checkpoint, calibration=expected))
        loaded = load_checkpoint(tmp_path / "a.pt")
        assert loaded.calibration == expected
        assert loaded.metadata.calibration == expected


def test_checkpoints_from_before_calibration_load(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, checkpoint)
    content = torch.load(path, weights_only=True)
    del content["calibration"]
    torch.save(content, path)
    assert load_checkpoint(path).calibration is None
    torch.save(content | {"calibration": {"temperature": -1.0}}, path)
    with pytest.raises(ModelError, match=r"a\.pt: .* calibration"):
        load_checkpoint(path)
