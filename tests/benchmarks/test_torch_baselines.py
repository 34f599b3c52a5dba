from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench.baselines.registry import BASELINES
from benchmarks.bench.baselines.torch_baselines import TorchBackend
from benchmarks.bench.processes.programs import predict_with_torch
from benchmarks.bench.systems import SystemUnderTest
from numclip_runtime import GpuRequiredError, MissingDependencyError, ModelError, Predictor


def test_backend_runs_the_model_of_the_checkpoint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from numclip.checkpoint import load_checkpoint
    from numclip.model.numclip import NumClip

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


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("torch-eager", 1e-6), ("zero-shot", 1e-5), ("torch-bf16", 0.2)]
)
def test_peers_run_the_same_weights(checkpoint: Path, kind: str, tolerance: float) -> None:
    import torch

    from numclip.checkpoint import load_checkpoint

    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        model = load_checkpoint(checkpoint).model
        expected = model(torch.from_numpy(images)).values.numpy()
        features = model.image_encoder(torch.from_numpy(images)).numpy()
    system = SystemUnderTest(BASELINES[kind].title, kind, None, str(checkpoint))
    with Predictor(system.open()) as predictor:
        backend = predictor.backend
        values, bin_probs = backend.run(images)
        found = backend.features(images)  # type: ignore[attr-defined]
    assert values.dtype == bin_probs.dtype == found.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(values, expected, atol=tolerance)
    np.testing.assert_allclose(found, features, atol=tolerance * 0.2)
    assert (kind == "torch-bf16") == bool(np.abs(found - features).max() > 1e-4)


def test_text_tower_runs_again_for_each_batch_only_where_asked(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numclip.model.numclip import NumClip

    runs: list[int] = []
    text_features = NumClip.text_features

    def spy(model: NumClip) -> object:
        runs.append(1)
        return text_features(model)

    monkeypatch.setattr(NumClip, "text_features", spy)
    images = np.zeros((1, 3, 8, 8), np.float32)
    for kind, expected in (("torch-eager", 1), ("zero-shot", 1 + 3)):
        runs.clear()
        with Predictor(SystemUnderTest(kind, kind, None, str(checkpoint)).open()) as predictor:
            for _ in range(3):
                predictor.backend.run(images)
        assert len(runs) == expected, kind


def test_gpu_peers_say_that_there_is_none(checkpoint: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    for kind in ("cuda-eager", "cuda-fp16", "cuda-compile", "cuda-graphs"):
        with pytest.raises(GpuRequiredError, match="no CUDA GPU"):
            SystemUnderTest(kind, kind, None, str(checkpoint)).open()


def test_program_of_first_prediction_agrees(checkpoint: Path, photos: Path) -> None:
    image = str(photos / "2.png")
    first, facts = predict_with_torch(str(checkpoint), image, None)
    with Predictor(TorchBackend(checkpoint)) as predictor:
        assert first["value"] == pytest.approx(predictor.predict(image).value, rel=1e-5)
    assert facts["import_s"] >= 0


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
