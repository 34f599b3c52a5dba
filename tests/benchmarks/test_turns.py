from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.bench.interleave import PAUSE_S, ratio, schedule, take_turns
from benchmarks.bench.stages import Stamps


def stamps_of(*inference_ms: float) -> Stamps:
    stamps = np.zeros((len(inference_ms), 7), np.int64)
    stamps[:, 4:] = np.array(inference_ms)[:, None] * 1e6
    return stamps


def test_each_has_one_turn_per_round_in_changing_order() -> None:
    orders = list(schedule("ABC", 20))
    assert all(sorted(order) == ["A", "B", "C"] for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    assert orders == list(schedule("ABC", 20))  # the same in each run


def test_turns_alternate_with_pauses() -> None:
    log: list[object] = []

    def turn(name: str) -> Callable[[], Stamps]:
        def measure() -> Stamps:
            log.append(name)
            return stamps_of(1)

        return measure

    found = take_turns({name: turn(name) for name in "AB"}, 3, pause=log.append)
    assert log[::2] == [PAUSE_S] * 6
    assert [set(log[i : i + 4 : 2]) for i in (1, 5, 9)] == [{"A", "B"}] * 3
    assert {name: len(rounds) for name, rounds in found.items()} == {"A": 3, "B": 3}


def test_ratio_is_taken_within_rounds() -> None:
    # The machine slows down by 10 in the last round, for both: the ratio does not see it.
    theirs = [stamps_of(8, 8, 80), stamps_of(8), stamps_of(80)]
    ours = [stamps_of(2, 2, 2), stamps_of(4), stamps_of(20)]
    found = ratio(ours, theirs, to="base")
    assert (found.to, found.of, found.median) == ("base", "inference", 4)
    assert (found.low, found.high) == pytest.approx((3, 4))
