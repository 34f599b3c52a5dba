"""Competitors by turns, and what their times say about each other.

A machine's speed drifts: other programs, heat, clocks. Rounds in which each competitor has one turn
meet the same drift, so each round gives a ratio, and the spread of the ratios shows how far to
trust it. The order is shuffled in each round, so that none always follows the same neighbour.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from benchmarks.bench.stages import Stamps, Timings

PAUSE_S = 0.06  # between turns: threads that wait by spinning give up and sleep (some 10 ms)
UNTIMED = 2  # batches at the start of a turn: the caches hold what another competitor needed
SEED = 0

Name = TypeVar("Name")


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another, by the rounds' median inference times."""

    to: str  # the other's name
    of: str  # the stage compared
    median: float  # over the rounds
    low: float  # first quartile
    high: float  # third quartile

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def schedule(names: Sequence[Name], rounds: int, *, seed: int = SEED) -> Iterator[list[Name]]:
    """Yield the order of each round."""
    rng = random.Random(seed)
    for _ in range(rounds):
        order = list(names)
        rng.shuffle(order)
        yield order


def take_turns(
    turns: Mapping[Name, Callable[[], Stamps]],
    rounds: int,
    *,
    pause: Callable[[float], object] = time.sleep,
    tick: Callable[[], None] = lambda: None,
) -> dict[Name, list[Stamps]]:
    """Let each take one turn per round.

    Args:
        turns: Name -> what measures one turn.
        rounds: At least 1.
        pause: Waits for seconds.
        tick: Called after each turn.

    Returns:
        Name -> one array per round.
    """
    found: dict[Name, list[Stamps]] = {name: [] for name in turns}
    for order in schedule(list(turns), rounds):
        for name in order:
            pause(PAUSE_S)
            found[name].append(turns[name]())
            tick()
    return found


def round_medians(rounds: Sequence[Stamps], stage: str) -> list[float]:
    """Return the median time of a stage in each round, ms."""
    return [
        float(np.median(Timings.from_stamps(stamps, batch=1).stages[stage])) for stamps in rounds
    ]


def ratio(
    rounds: Sequence[Stamps], baseline: Sequence[Stamps], *, to: str, stage: str = "inference"
) -> Ratio:
    """Compare two competitors round by round."""
    ours, theirs = (np.array(round_medians(part, stage)) for part in (rounds, baseline))
    low, middle, high = np.percentile(theirs / ours, [25, 50, 75]).tolist()
    return Ratio(to, stage, middle, low, high)
