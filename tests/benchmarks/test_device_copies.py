"""Copies of a plan timed apart, on a stand-in driver that works by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench.baselines.device_copies import PROBES, PlanCopies, with_copies_apart
from tests.benchmarks.conftest import ROOT
from tests.runtime.opener import Opener
from tests.runtime.standin import StandinDriver, compile_standin


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> StandinDriver:
    return compile_standin(tmp_path_factory.mktemp("driver"))


def test_copies_of_a_plan(
    driver: StandinDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    opener = Opener(tmp_path, ROOT / "tests" / "data" / "tiny.onnx", driver, monkeypatch)
    backend, behaviour = opener(uint8=True)
    apart = with_copies_apart(backend)
    assert isinstance(apart, PlanCopies)
    assert (apart.lanes, apart.max_batch) == (backend.lanes, backend.max_batch)
    images = np.full((4, 8, 8, 3), 100, np.uint8)
    with driver.working(3, 6, 1):
        values, bin_probs, upload, download = apart.run_apart(images)
        assert len(behaviour.seen) == PROBES + 1, "and the run itself"
        apart.run_apart(images)
    assert len(behaviour.seen) == PROBES + 2, "a size is probed once"
    np.testing.assert_array_equal(values, apart.run(images)[0])
    assert bin_probs.shape == (4, 3)
    assert 0.99e6 * 3 <= upload < 100e6  # ns
    assert 0.99e6 * 1 <= download < upload
    assert backend.cuda_graphs, "as users have it"
    apart.close()
    assert driver.alive == {}
