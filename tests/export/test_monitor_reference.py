"""The reference of a monitor: made at calibration, kept in the model, and true of its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.data.samples import Sample
from numclip.evaluation.calibration import calibrate
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export import ExportOptions, run_export
from numclip_runtime import ImageError, Preprocessing, read_metadata
from numclip_runtime.app.monitoring.observed import ObservedPredictor
from numclip_runtime.backends import OpenOptions
from numclip_runtime.monitor.reference import reference_of
from numclip_runtime.monitor.statistics import STATISTICS, output_statistics
from tests.export.test_export_calibrated import CLIP, TASK


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    found = []
    for number in range(40):
        pixels = rng.normal(rng.uniform(60, 190, 3), 30, (12, 12, 3)).clip(0, 255)
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        label = float(rng.uniform(3, 43))
        found.append(Sample(path, label, group=f"person {number // 2}"))
    return found


@pytest.fixture(scope="module")
def calibrated(samples: list[Sample]) -> Checkpoint:
    torch.manual_seed(0)
    model = NumClip(ModelConfig(CLIP), TASK).eval()
    plain = [replace(sample, group="") for sample in samples]
    start = Checkpoint(model, Preprocessing(crop=8, resize=10))
    return calibrate(start, plain[:25], tuning=plain[25:])[0]


def test_it_is_that_of_the_exported_model(
    calibrated: Checkpoint, samples: list[Sample], tmp_path: Path
) -> None:
    path = tmp_path / "m.pt"
    save_checkpoint(path, calibrated)
    result = run_export(ExportOptions(path, tmp_path / "m.onnx", verify=False))
    found = read_metadata(result.onnx).reference
    assert found is not None
    assert found.images == 40
    rows = []
    with ObservedPredictor.open(result.onnx, OpenOptions(device="cpu")) as predictor:
        for one in predictor.stream([sample.image for sample in samples]):
            assert not isinstance(one, ImageError)
            assert one.input_statistics is not None
            rows.append((*output_statistics(one), *one.input_statistics))
    expected = reference_of(np.array(rows), STATISTICS)
    assert expected is not None
    assert (found.ranks, found.names) == (expected.ranks, expected.names)
    for name, statistic in found.statistics.items():
        other = expected.statistics[name]
        spread = other.edges[-1] - other.edges[0]
        np.testing.assert_allclose(statistic.edges, other.edges, atol=1e-3 * spread)
        assert statistic.mean == pytest.approx(other.mean, abs=1e-3 * spread)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_checkpoint_keeps_it(calibrated: Checkpoint, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    save_checkpoint(path, calibrated)
    assert calibrated.reference is not None
    assert load_checkpoint(path).reference == calibrated.reference


def test_one_image_of_each_group_counts(calibrated: Checkpoint, samples: list[Sample]) -> None:
    grouped = calibrate(calibrated, samples)[0].reference
    assert grouped is not None
    assert grouped.images == 20
    assert calibrate(calibrated, samples[:30])[0].reference is None  # 15 groups are too few
