from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, repeat

import numpy as np
import pytest

from benchmarks.bench.results import FixedRate
from benchmarks.bench.stages import WINDOW, at_rate, warm_up
from tests.benchmarks.conftest import Clock, DelayedBackend


def served(delays_ms: Iterator[float], *, rate: float, seconds: float = 1.0) -> FixedRate:
    clock = Clock()
    return at_rate(
        lambda: clock.wait(next(delays_ms) / 1e3),
        rate=rate,
        batch=1,
        seconds=seconds,
        clock=clock,
        sleep=clock.sleep,
    )


def test_a_stall_delays_the_requests_that_follow() -> None:
    # 100 requests, one each 10 ms, each takes 2 ms; the 21st takes 50 ms. A loop that waits for its
    # answer would count 1 slow request of 100.
    delays = chain([2.0] * 20, [50.0], repeat(2.0))
    found = served(delays, rate=100)
    latencies = np.array(found.samples_ms)
    assert len(latencies) == found.requests == 100
    # The others arrived 10, 20, 30, 40 ms into the stall, and queued behind each other as well.
    np.testing.assert_allclose(latencies[20:27], [50, 42, 34, 26, 18, 10, 2], atol=0.1)
    np.testing.assert_allclose(latencies[:20], 2, atol=0.1)
    assert found.latency_ms.max == pytest.approx(50, abs=0.1)
    assert found.latency_ms.p95 > 10
    assert found.service_ms.p95 == pytest.approx(2, abs=0.1)
    assert found.kept_up is True
    assert found.achieved_img_s == pytest.approx(100)


def test_a_rate_beyond_reach_is_reported() -> None:
    found = served(repeat(20.0), rate=100)  # 50 per second is all it can do
    assert found.kept_up is False
    assert found.achieved_img_s == pytest.approx(50)
    latencies = found.samples_ms
    assert latencies[-1] == pytest.approx(20 + 99 * 10, rel=0.01)  # the queue grows to the end


def test_images_per_request_count() -> None:
    clock = Clock()
    found = at_rate(
        lambda: clock.wait(0.001),
        rate=80,
        batch=8,
        seconds=1,
        clock=clock,
        sleep=clock.sleep,
    )
    assert found.requests == 10
    assert found.achieved_img_s == pytest.approx(80)


def test_real_clock_keeps_the_schedule() -> None:
    starts: list[float] = []
    begin = time.perf_counter()
    at_rate(lambda: starts.append(time.perf_counter()), rate=200, batch=1, seconds=0.1)
    assert len(starts) == 20
    assert starts[-1] - begin >= 0.095  # not all at once


def test_ends_when_two_windows_agree() -> None:
    clock = Clock()
    # 5 slow runs, then steady ones of 100 ms: windows of 5 are 0.5 s long
    delays = chain([0.4] * 5, repeat(0.1))
    done = warm_up(lambda: clock.wait(next(delays)), limit_s=60, clock=clock)
    assert done.stable
    assert done.runs == 3 * WINDOW  # slow, steady, steady
    assert done.seconds == pytest.approx(0.4 * 5 + 0.1 * 10)


def test_short_runs_fill_a_window_by_time() -> None:
    clock = Clock()
    done = warm_up(lambda: clock.wait(0.01), limit_s=60, clock=clock)
    assert done.stable
    assert done.seconds == pytest.approx(0.5)


def test_gives_up_when_time_is_up_and_reports_it() -> None:
    clock = Clock()
    delays = (0.1 * 1.1**i for i in range(1000))  # slower and slower
    done = warm_up(lambda: clock.wait(next(delays)), limit_s=5, clock=clock)
    assert not done.stable
    assert 5 <= done.seconds < 7
    assert "3%" in done.rule
    assert "or 5 s have passed" in done.rule


def test_a_change_of_three_percent_is_not_stable() -> None:
    clock = Clock()
    delays = chain([0.1] * 5, [0.104] * 5, repeat(0.105))
    assert warm_up(lambda: clock.wait(next(delays)), limit_s=60, clock=clock).runs == 3 * WINDOW


def test_runs_once_at_least() -> None:
    clock = Clock()
    backend = DelayedBackend([3.0], clock.wait)
    done = warm_up(lambda: backend.batches.append(1), limit_s=0, clock=clock)
    assert (done.runs, backend.batches) == (1, [1])
