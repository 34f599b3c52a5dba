"""Systems measured by turns, A B A B, and the ratios of their times.

A machine's speed drifts: other programs, heat, clocks. Rounds in which each system has one turn
meet the same drift, so each round gives a ratio, and the spread of the ratios shows how far to
trust it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import click
import numpy as np

from benchmarks.bench.results import Ratio
from benchmarks.bench.stages import Stamps, Timings

PAUSE_S = 0.06  # between turns: threads that wait by spinning give up and sleep (some 10 ms)
UNTIMED = 2  # batches at the start of a turn: the caches hold what another system needed

Name = TypeVar("Name")
Found = TypeVar("Found")
# "shuffled" (seed 0): none always follows the same neighbour; "mirrored": A B, B A, A B
Order = Literal["fixed", "mirrored", "shuffled"]


def track(label: str, items: Iterable[Found], length: int | None = None) -> Iterator[Found]:
    """Yield the items; shows a bar on stderr if that is a terminal."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(items, length, label, file=sys.stderr, hidden=hidden) as bar:
        yield from bar


def schedule(names: Sequence[Name], rounds: int, order: Order) -> Iterator[list[Name]]:
    """Yield the order of each round."""
    rng = random.Random(0)
    for number in range(rounds):
        now = list(names)
        if order == "shuffled":
            rng.shuffle(now)
        yield now[:: -1 if order == "mirrored" and number % 2 else 1]


def interleave(
    turns: Mapping[Name, Callable[[int], Found]],
    rounds: int,
    *,
    order: Order = "fixed",
    pause_s: float = 0.0,
    pause: Callable[[float], object] = time.sleep,
    label: str | None = None,
) -> dict[Name, list[Found]]:
    """Let each take one turn per round.

    Args:
        turns: Name -> measures one turn; called with the round's number, from 0.
        rounds: At least 1.
        order: Of the turns in a round.
        pause_s: Seconds before each turn.
        pause: Waits for seconds.
        label: Of the progress bar; None shows none.

    Returns:
        Name -> what its turns returned, one per round.
    """
    found: dict[Name, list[Found]] = {name: [] for name in turns}
    steps = [
        (i, name) for i, names in enumerate(schedule(list(turns), rounds, order)) for name in names
    ]
    for number, name in steps if label is None else track(label, steps):
        if pause_s:
            pause(pause_s)
        found[name].append(turns[name](number))
    return found


def ratio(rounds: Sequence[Stamps], baseline: Sequence[Stamps], *, to: str) -> Ratio:
    """Compare two systems round by round, by their median time of inference in each."""
    ours, theirs = (
        np.array([np.median(Timings.from_stamps(s, batch=1).stages["inference"]) for s in part])
        for part in (rounds, baseline)
    )
    low, middle, high = np.percentile(theirs / ours, [25, 50, 75]).tolist()
    return Ratio(to, "inference", middle, low, high)
