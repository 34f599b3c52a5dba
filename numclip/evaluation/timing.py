"""Latencies of runs that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from numclip_runtime.preprocess import InputArray

ROUNDS = 40  # of one run each, interleaved
WARMUP = 5
SECONDS = 10.0  # at most, for large models


def lower_quartiles_ms(
    runs: Sequence[tuple[Callable[[InputArray], object], InputArray]], *, batch: int = 1
) -> list[float]:
    """Time runs interleaved (A B A B), inputs rotated.

    The lower quartile: what disturbs the machine makes some runs slower, and none faster.

    Args:
        runs: Each with the images, (N, ...), in the form that it takes.
        batch: Images per run.

    Returns:
        Milliseconds of each.
    """
    times: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    for count in range(WARMUP + ROUNDS):
        for (run, images), seconds in zip(runs, times, strict=True):
            some = images[(count * batch + np.arange(batch)) % len(images)]
            before = time.perf_counter()
            run(some)
            seconds.append(time.perf_counter() - before)
        if count > 2 * WARMUP and time.perf_counter() - started > SECONDS:
            break
    return [round(1e3 * float(np.quantile(seconds[WARMUP:], 0.25)), 3) for seconds in times]


def images_per_run(batch: int) -> str:
    """Return a batch size for people."""
    return "one image" if batch == 1 else f"batch {batch}"
