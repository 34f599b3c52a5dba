"""Run until the times no longer change: caches, clocks and lazy compilation settle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any

RUNS, SPAN_S = 5, 0.25  # a window has at least this many runs, and lasts at least this long
CHANGE = 0.03  # of the median from one window to the next
LIMIT_S = 5.0
RULE = (
    f"medians of two consecutive windows (each at least {RUNS} runs and {SPAN_S:g} s) differ by "
    f"less than {CHANGE:.0%}, or {{limit:g}} s have passed"
)


@dataclass(frozen=True)
class Warmup:
    """How a warm-up went."""

    rule: str
    seconds: float
    stable: bool  # whether the medians agreed before the time was up
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def warm_up(
    run: Callable[[], object],
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], int] = perf_counter_ns,
) -> Warmup:
    """Call `run` until its times are stable, see RULE.

    Args:
        run: One untimed batch.
        limit_s: Longest time, seconds; the run under way is finished, so at least one is made.
        clock: In ns.
    """
    start = clock()
    runs, last, stable = 0, None, False
    window: list[int] = []
    while not stable and (not runs or clock() - start < limit_s * 1e9):
        before = clock()
        run()
        window.append(clock() - before)
        runs += 1
        if len(window) >= RUNS and sum(window) >= SPAN_S * 1e9:
            now = median(window)
            stable = last is not None and abs(now - last) < CHANGE * last
            last, window = now, []
    return Warmup(RULE.format(limit=limit_s), (clock() - start) / 1e9, stable, runs)
