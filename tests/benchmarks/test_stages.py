from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench import stages
from benchmarks.bench.results import STAGES, Summary
from benchmarks.bench.stages import Timings, batches, measure
from numclip_runtime import ImageError
from numclip_runtime.backends import Backend
from numclip_runtime.preprocess import FloatArray, load_rgb, network_input
from tests.benchmarks.conftest import Clock, DelayedBackend, predictor_of


def paths_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir())


def timings_of(
    backend: Backend, photos: Path, *, batch: int, iterations: int, untimed: int = 0
) -> Timings:
    source = batches(paths_in(photos), batch)
    stamps = measure(predictor_of(backend), source, iterations=iterations, untimed=untimed)
    return Timings.from_stamps(stamps, batch=batch)


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
    timings = timings_of(DelayedBackend(delays, clock.wait), photos, batch=2, iterations=100)
    for stage in ("inference", "total"):
        summary = timings.summaries[stage]
        assert (summary.p50, summary.p90, summary.p95) == (2, 2, 2)
        assert (summary.p99, summary.max, summary.n) == (20, 20, 100)
        assert summary.mean == pytest.approx(2.36)
    assert timings.throughput_img_s == pytest.approx(200 / 0.236)


def test_one_stall_moves_p99_by_interpolation(clock: Clock, photos: Path) -> None:
    backend = DelayedBackend([20.0, *[2.0] * 99], clock.wait)
    timings = timings_of(backend, photos, batch=1, iterations=100)
    assert timings.summaries["inference"].p99 == pytest.approx(2.18)  # 1 % of the way to 20
    assert timings.summaries["inference"].max == 20


def test_real_clock_sees_the_delays(photos: Path) -> None:
    backend = DelayedBackend([1.0, 10.0, 1.0], time.sleep)
    timings = timings_of(backend, photos, batch=1, iterations=20)
    summaries = timings.summaries
    assert summaries["inference"].p50 >= 1
    assert summaries["inference"].max >= 10
    assert summaries["decode"].p50 > 0
    assert summaries["preprocess"].p50 > 0
    assert summaries["upload"].max == summaries["download"].max == 0  # nothing is copied on a CPU
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
        return network_input(*args)  # type: ignore[arg-type]

    class Copying(DelayedBackend):
        def run_apart(self, images: FloatArray) -> tuple[FloatArray, FloatArray, int, int]:
            clock.wait(0.002 + 0.0005)
            return *self.run(images), 2_000_000, 500_000

    monkeypatch.setattr(stages, "load_rgb", slow_load)
    monkeypatch.setattr(stages, "network_input", slow_input)
    predictor = predictor_of(Copying([7.0], clock.wait))
    monkeypatch.setattr(predictor, "postprocess", lambda *_: clock.wait(0.001))
    stamps = measure(predictor, batches(paths_in(photos), 2), iterations=4)
    timings = Timings.from_stamps(stamps, batch=2)
    means = {stage: summary.mean for stage, summary in timings.summaries.items()}
    assert means == pytest.approx(
        {
            "decode": 6,
            "preprocess": 10,
            "upload": 2,
            "inference": 7,
            "download": 0.5,
            "postprocess": 1,
            "total": 26.5,
        }
    )
    assert timings.throughput_img_s == pytest.approx(2 / 0.0265)


def test_untimed_batches_are_run_but_not_counted(clock: Clock, photos: Path) -> None:
    backend = DelayedBackend([500.0, 400.0, 300.0, 2.0], clock.wait)
    timings = timings_of(backend, photos, batch=4, iterations=6, untimed=3)
    assert backend.batches == [4] * 9
    assert timings.summaries["total"].n == 6
    assert timings.summaries["total"].max == 2


def test_a_turn_may_last_for_some_time(clock: Clock, photos: Path) -> None:
    predictor = predictor_of(DelayedBackend([30.0], clock.wait))
    source = batches(paths_in(photos), 1)
    stamps = measure(predictor, source, iterations=1, seconds=0.1, clock=clock)
    assert len(stamps) == 4  # the batch under way at 100 ms is finished


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
    timings_of(DelayedBackend([1.0], clock.wait), photos, batch=2, iterations=3, untimed=1)
    assert read == ["0", "1", "2", "3", "4", "0", "1", "2"]


def test_unreadable_image_is_an_error(clock: Clock, photos: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"2\.png: the file is empty"):
        timings_of(DelayedBackend([1.0], clock.wait), photos, batch=1, iterations=5)


def test_stamps_become_milliseconds() -> None:
    stamps = np.array([[0, 1, 3, 6, 10, 15, 21], [100] * 6 + [105]], np.int64) * 1_000_000
    timings = Timings.from_stamps(stamps, batch=3)
    assert {stage: times.tolist() for stage, times in timings.stages.items()} == {
        "decode": [1, 0],
        "preprocess": [2, 0],
        "upload": [3, 0],
        "inference": [4, 0],
        "download": [5, 0],
        "postprocess": [6, 5],
        "total": [21, 5],
    }
    assert timings.throughput_img_s == pytest.approx(6 / 0.026)
