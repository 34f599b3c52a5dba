from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import first_prediction
from benchmarks.torch_model import TorchBackend
from numclip_runtime import MissingDependencyError, ModelError, Predictor
from tests.benchmarks.conftest import METADATA


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of the real model, with random weights and tiny towers."""
    torch = pytest.importorskip("torch")
    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.model import ModelConfig, NumClip

    torch.manual_seed(0)
    tower = {"layers": 1, "width": 64}
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 8, "patch_size": 4, "head_width": 32, **tower},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower},
        "quick_gelu": False,
    }
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    model = NumClip(ModelConfig(clip), METADATA.task)
    save_checkpoint(path, Checkpoint(model, METADATA.preprocessing))
    return path


def test_backend_runs_the_model_of_the_checkpoint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from numclip.checkpoint import load_checkpoint
    from numclip.model import NumClip

    before = torch.get_num_threads()
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = load_checkpoint(checkpoint).model(torch.from_numpy(images))
    with Predictor(TorchBackend(checkpoint, threads=1)) as predictor:
        assert torch.get_num_threads() == 1
        # From here on the text tower must not run again: its features are kept.
        monkeypatch.setattr(NumClip, "text_features", None)
        values, bin_probs = predictor.backend.run(images)
        assert len(predictor.predict_inputs(images)) == 2
    assert torch.get_num_threads() == before
    assert values.dtype == bin_probs.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(values, expected.values.numpy(), rtol=1e-5)
    np.testing.assert_allclose(bin_probs, expected.bin_probs.numpy(), atol=1e-5)


def test_program_of_first_prediction_agrees(
    checkpoint: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = str(photos / "2.png")
    monkeypatch.setattr(sys, "argv", ["-c", str(checkpoint), image, "0"])
    exec(first_prediction._TORCH, {})  # in this process: a fresh one would import for seconds
    with Predictor(TorchBackend(checkpoint)) as predictor:
        expected = predictor.predict(image).value
    assert float(capsys.readouterr().out) == pytest.approx(expected, rel=1e-5)


def test_missing_torch_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'numclip\[train\]'"):
        TorchBackend(Path("checkpoint.pt"))


def test_broken_checkpoint_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        TorchBackend(path)
