from __future__ import annotations

from itertools import chain, repeat

import pytest

from benchmarks.warmup import RUNS, warm_up
from tests.benchmarks.conftest import Clock, DelayedBackend


def test_ends_when_two_windows_agree() -> None:
    clock = Clock()
    # 5 slow runs, then steady ones of 100 ms: windows of 5 are 0.5 s long
    delays = chain([0.4] * 5, repeat(0.1))
    done = warm_up(lambda: clock.wait(next(delays)), limit_s=60, clock=clock)
    assert done.stable
    assert done.runs == 3 * RUNS  # slow, steady, steady
    assert done.seconds == pytest.approx(0.4 * 5 + 0.1 * 10)


def test_short_runs_fill_a_window_by_time() -> None:
    clock = Clock()
    done = warm_up(lambda: clock.wait(0.01), limit_s=60, clock=clock)
    assert done.stable
    assert done.seconds == pytest.approx(0.5)


def test_gives_up_when_time_is_up_and_says_so() -> None:
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
    assert warm_up(lambda: clock.wait(next(delays)), limit_s=60, clock=clock).runs == 3 * RUNS


def test_runs_once_at_least() -> None:
    clock = Clock()
    backend = DelayedBackend([3.0], clock.wait)
    done = warm_up(lambda: backend.batches.append(1), limit_s=0, clock=clock)
    assert (done.runs, backend.batches) == (1, [1])
