"""The timeline of a plan's lanes, on a stand-in driver that works by itself."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import timeline
from benchmarks.timeline import Span, main, record, save_timeline
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend
from tests.benchmarks.conftest import ROOT
from tests.runtime.opener import RTX, Opener
from tests.runtime.standin import StandinDriver, compile_standin


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> StandinDriver:
    return compile_standin(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def opener(driver: StandinDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    pytest.importorskip("onnxruntime")
    return Opener(tmp_path, ROOT / "tests" / "data" / "tiny.onnx", driver, monkeypatch)


@pytest.mark.parametrize("uint8", [False, True])
def test_record(opener: Opener, driver: StandinDriver, uint8: bool) -> None:
    backend, behaviour = opener(uint8=uint8)
    with driver.working(3, 6, 1):
        spans = record(backend, batch=4, runs=7)
    backend.close()
    assert driver.alive == {}
    assert {span.lane for span in spans} == {0, 1}
    assert {len(batch) for batch in behaviour.seen} == {4}
    at_least = {"upload": 3, "compute": 6, "download": 1}
    for run in range(7):
        own = [span for span in spans if span.run == run]
        assert [span.stage for span in own] == list(at_least)
        assert len({span.lane for span in own}) == 1
        assert all(before.end_ms == after.start_ms for before, after in pairwise(own))
        assert all(s.end_ms - s.start_ms >= 0.99 * at_least[s.stage] for s in own)
    starts = [min(span.start_ms for span in spans if span.run == run) for run in range(7)]
    assert starts == sorted(starts)
    assert starts[0] == 0


def test_a_lane_alone_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "one.svg"
    spans = [Span(0, 0, "upload", 0, 1), Span(0, 0, "compute", 1, 3)]
    save_timeline(output, spans, kind="svg", title="x.plan", note="")
    assert "<!-- lane 1 -->" in output.read_text(encoding="utf-8")


def test_command(opener: Opener, driver: StandinDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    plan = opener.write(dataclasses.replace(RTX, max_batch=4))
    opener.install("tensorrt_rtx", "1.7.1.116", batches=(1, 4))
    monkeypatch.setattr(
        timeline, "TensorRTBackend", lambda *a, **kw: TensorRTBackend(*a, library=driver.path, **kw)
    )
    output = opener.folder / "timeline.svg"
    with driver.working(3, 6, 1):
        done = CliRunner().invoke(main, [str(plan), "-o", str(output), "--batch", "4"])
        refused = CliRunner().invoke(main, [str(plan), "-o", str(output), "--batch", "5"])
    assert done.exit_code == 0, done.output
    assert f"{output}: 8 runs in" in done.output
    text = output.read_text(encoding="utf-8")
    for words in ("lane 1", "lane 2", "x.plan, batches of 4", "Stand-in GPU 0, tensorrt_rtx"):
        assert f"<!-- {words}" in text, words
    assert refused.exit_code == 2
    assert refused.output == f"Error: {plan}: batches hold at most 4 images, got 5.\n"
    assert driver.alive == {}


def test_where_no_gpu_is(opener: Opener) -> None:
    plan = opener.write(RTX)
    done = CliRunner().invoke(main, [str(plan)])
    assert done.exit_code == 2
    assert "a plan runs on an NVIDIA GPU, and none can be used" in done.output
    assert done.output.count("\n") == 1
