from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import stages
from benchmarks.stages import STAGES, Summary, Timings, batches, measure
from numclip_runtime import ImageError
from numclip_runtime.preprocess import load_rgb, to_input
from tests.benchmarks.conftest import Clock, DelayedBackend, predictor_of


def paths_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir())


def test_percentiles_interpolate_linearly_and_clip_nothing() -> None:
    times = np.arange(1.0, 102.0)  # 1 to 101: the pth percentile is p + 1
    times[-1] = 1e6
    summary = Summary.of(times)
    assert (summary.p50, summary.p90, summary.p95, summary.p99) == (51, 91, 96, 100)
    assert (summary.max, summary.n) == (1e6, 101)
    assert summary.mean == pytest.approx(times.mean())
    assert Summary.of(np.array([1.0, 2.0])).p90 == pytest.approx(1.9)


def test_rare_stall_stays_in_the_statistics(clock: Clock, photos: Path) -> None:
    delays = [2.0] * 100
    delays[10] = delays[70] = 20.0  # 2 of 100: the 99th percentile lies inside the tail
    predictor = predictor_of(DelayedBackend(delays, clock.wait))
    timings = measure(predictor, paths_in(photos), batch=2, iterations=100, warmup=0)
    for stage in ("inference", "total"):
        summary = timings.summaries[stage]
        assert (summary.p50, summary.p90, summary.p95) == (2, 2, 2)
        assert (summary.p99, summary.max, summary.n) == (20, 20, 100)
        assert summary.mean == pytest.approx(2.36)
    assert timings.throughput_img_s == pytest.approx(200 / 0.236)


def test_one_stall_moves_p99_by_interpolation(clock: Clock, photos: Path) -> None:
    predictor = predictor_of(DelayedBackend([20.0, *[2.0] * 99], clock.wait))
    timings = measure(predictor, paths_in(photos), batch=1, iterations=100, warmup=0)
    assert timings.summaries["inference"].p99 == pytest.approx(2.18)  # 1 % of the way to 20
    assert timings.summaries["inference"].max == 20


def test_real_clock_sees_the_delays(photos: Path) -> None:
    predictor = predictor_of(DelayedBackend([1.0, 10.0, 1.0], time.sleep))
    timings = measure(predictor, paths_in(photos), batch=1, iterations=20, warmup=0)
    summaries = timings.summaries
    assert summaries["inference"].p50 >= 1
    assert summaries["inference"].max >= 10
    assert summaries["decode"].p50 > 0
    assert summaries["preprocess"].p50 > 0
    parts = sum(timings.stages[stage] for stage in STAGES)
    np.testing.assert_allclose(timings.stages["total"], parts)


def test_each_stage_is_counted_where_it_belongs(
    clock: Clock, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_load(path: str) -> Image.Image:
        clock.wait(0.003)
        return load_rgb(path)

    def slow_input(*args: object) -> object:
        clock.wait(0.005)
        return to_input(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "load_rgb", slow_load)
    monkeypatch.setattr(stages, "to_input", slow_input)
    predictor = predictor_of(DelayedBackend([7.0], clock.wait))
    monkeypatch.setattr(predictor, "postprocess", lambda *_: clock.wait(0.001))
    timings = measure(predictor, paths_in(photos), batch=2, iterations=4, warmup=0)
    means = {stage: summary.mean for stage, summary in timings.summaries.items()}
    expected = {"decode": 6, "preprocess": 10, "inference": 7, "postprocess": 1, "total": 24}
    assert means == pytest.approx(expected)
    assert timings.throughput_img_s == pytest.approx(2 / 0.024)


def test_warmup_is_run_but_not_counted(clock: Clock, photos: Path) -> None:
    backend = DelayedBackend([500.0, 400.0, 300.0, 2.0], clock.wait)
    ticks: list[None] = []
    timings = measure(
        predictor_of(backend),
        paths_in(photos),
        batch=4,
        iterations=6,
        warmup=3,
        tick=lambda: ticks.append(None),
    )
    assert backend.batches == [4] * 9
    assert len(ticks) == 9
    assert timings.summaries["total"].n == 6
    assert timings.summaries["total"].max == 2


def test_batches_go_on_where_the_last_one_ended() -> None:
    assert list(islice(batches("abcde", 2), 4)) == [["a", "b"], ["c", "d"], ["e", "a"], ["b", "c"]]
    assert next(batches("ab", 5)) == ["a", "b", "a", "b", "a"]


def test_consecutive_iterations_read_different_images(
    clock: Clock, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def spy(path: str) -> Image.Image:
        read.append(Path(path).stem)
        return load_rgb(path)

    monkeypatch.setattr(stages, "load_rgb", spy)
    predictor = predictor_of(DelayedBackend([1.0], clock.wait))
    measure(predictor, paths_in(photos), batch=2, iterations=3, warmup=1)
    assert read == ["0", "1", "2", "3", "4", "0", "1", "2"]


def test_unreadable_image_is_an_error(clock: Clock, photos: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    predictor = predictor_of(DelayedBackend([1.0], clock.wait))
    with pytest.raises(ImageError, match=r"2\.png: the file is empty"):
        measure(predictor, paths_in(photos), batch=1, iterations=5, warmup=0)


def test_stamps_become_milliseconds() -> None:
    stamps = np.array([[0, 1, 3, 6, 10], [100, 100, 100, 100, 105]], np.int64) * 1_000_000
    timings = Timings.from_stamps(stamps, batch=3)
    assert {stage: times.tolist() for stage, times in timings.stages.items()} == {
        "decode": [1, 0],
        "preprocess": [2, 0],
        "inference": [3, 0],
        "postprocess": [4, 5],
        "total": [10, 5],
    }
    assert timings.throughput_img_s == pytest.approx(6 / 0.015)
