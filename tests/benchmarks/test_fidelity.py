from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench.fidelity import Labelled, Outputs
from benchmarks.bench.machine import ceilings
from benchmarks.bench.machine.ceilings import Ceilings, best, measure_ceilings
from benchmarks.bench.results import LabelError
from numclip_export.cosine import centred_cosines
from numclip_runtime import UsageError
from tests.benchmarks.conftest import METADATA, Clock


def test_differences_in_label_units() -> None:
    reference = Outputs([1, 2, 3], None)
    found = Outputs([1, 2.5, 2], None).compare(reference)
    assert (found.value_max, found.value_mean) == (1, 0.5)
    assert (found.cosine_min, found.cosine_mean, found.images) == (None, None, 3)


def test_cosine_sees_past_the_common_direction() -> None:
    rng = np.random.default_rng(0)
    features = (1000 + rng.normal(size=(32, 64))).astype(np.float32)
    noisy = (features + rng.normal(size=features.shape)).astype(np.float32)
    plain = (features * noisy).sum(1) / np.linalg.norm(features, axis=1)
    assert (plain / np.linalg.norm(noisy, axis=1)).min() > 0.99999
    assert centred_cosines(noisy, features).max() < 0.9
    np.testing.assert_allclose(centred_cosines(features, features), 1)


def test_mae_leaves_out_what_cannot_be_read() -> None:
    labelled = Labelled(["a", "b", "c"], [10.0, 20.0, 30.0])
    found = labelled.mae([11.0, None, 27.0], "years")
    assert found == LabelError(mae=2.0, unit="years", images=2, failed=1)
    assert labelled.mae([None] * 3, "years") is None


def test_labels_are_read_as_by_numclip_eval(photos: Path, tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("path,label\nphotos/0.png,5\nphotos/3.png,15\n")
    found = Labelled.read(csv, METADATA.task)
    assert found.labels == [5, 15]
    assert [Path(path).name for path in found.paths] == ["0.png", "3.png"]
    csv.write_text("path,label\nphotos/0.png,500\n")
    with pytest.raises(UsageError, match="outside the task's range"):
        Labelled.read(csv, METADATA.task)


def test_share_of_the_ceiling() -> None:
    known = Ceilings({"fp32": 100.0, "int8": None}, "torch")
    # 2 * 1e9 operations, twice, in 80 ms: 50e9 per second
    assert known.share(10**9, 80, batch=2, precision="fp32") == pytest.approx(0.5)
    assert known.share(None, 80, batch=2, precision="fp32") is None
    assert known.share(10**9, 80, batch=2, precision="int8") is None
    assert known.share(10**9, 80, batch=2, precision="fp16") is None


def test_ceiling_is_the_best_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ceilings, "perf_counter_ns", clock)
    times = iter([0.4, 0.1, 0.5, 9])
    found = best(lambda: clock.wait(next(times)), seconds=0.9)
    assert found == pytest.approx(ceilings.OPERATIONS / 0.1e9)


def test_ceilings_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("benchmarks.bench.machine.ceilings.SECONDS", 0.01)
    found = measure_ceilings()
    assert found.library == "numpy"
    assert found.gflops["fp32"] > 0  # type: ignore[operator]
    assert found.gflops["bf16"] is found.gflops["int8"] is None
