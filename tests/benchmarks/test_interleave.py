from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.bench.interleave import PAUSE_S, Order, interleave, ratio, schedule
from benchmarks.bench.stages import Stamps


def stamps_of(*inference_ms: float) -> Stamps:
    stamps = np.zeros((len(inference_ms), 7), np.int64)
    stamps[:, 4:] = np.array(inference_ms)[:, None] * 1e6
    return stamps


def test_each_has_one_turn_per_round_in_changing_order() -> None:
    orders = list(schedule("ABC", 20, "shuffled"))
    assert all(sorted(order) == ["A", "B", "C"] for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    assert orders == list(schedule("ABC", 20, "shuffled"))  # the same in each run


def test_turns_alternate_with_pauses() -> None:
    log: list[object] = []

    def turn(name: str) -> Callable[[int], Stamps]:
        def measure(_: int) -> Stamps:
            log.append(name)
            return stamps_of(1)

        return measure

    turns = {name: turn(name) for name in "AB"}
    found = interleave(turns, 3, order="shuffled", pause_s=PAUSE_S, pause=log.append)
    assert log[::2] == [PAUSE_S] * 6
    assert [set(log[i : i + 4 : 2]) for i in (1, 5, 9)] == [{"A", "B"}] * 3
    assert {name: len(rounds) for name, rounds in found.items()} == {"A": 3, "B": 3}


@pytest.mark.parametrize(
    ("order", "expected"), [("fixed", ["AB", "AB", "AB"]), ("mirrored", ["AB", "BA", "AB"])]
)
def test_other_orders(order: Order, expected: list[str]) -> None:
    assert ["".join(names) for names in schedule("AB", 3, order)] == expected
    log: list[tuple[str, int]] = []
    turns = {name: (lambda n, name=name: log.append((name, n))) for name in "AB"}
    interleave(turns, 3, order=order)
    assert log == [(name, n) for n, names in enumerate(expected) for name in names]


def test_ratio_is_taken_within_rounds() -> None:
    # The machine slows down by 10 in the last round, for both: the ratio does not see it.
    theirs = [stamps_of(8, 8, 80), stamps_of(8), stamps_of(80)]
    ours = [stamps_of(2, 2, 2), stamps_of(4), stamps_of(20)]
    found = ratio(ours, theirs, to="base")
    assert (found.to, found.of, found.median) == ("base", "inference", 4)
    assert (found.low, found.high) == pytest.approx((3, 4))
