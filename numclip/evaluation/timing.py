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
    runs: Sequence[tuple[Callable[[InputArray], object], InputArray]],
) -> list[float]:
    """Time runs interleaved (A B A B), one image per run, inputs rotated.

    The lower quartile: what disturbs the machine makes some runs slower, and none faster.

    Args:
        runs: Each with the images, (N, ...), in the form that it takes.

    Returns:
        Milliseconds of each.
    """
    times: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    for count in range(WARMUP + ROUNDS):
        for (run, images), seconds in zip(runs, times, strict=True):
            image = images[count % len(images)][None]
            before = time.perf_counter()
            run(image)
            seconds.append(time.perf_counter() - before)
        if count > 2 * WARMUP and time.perf_counter() - started > SECONDS:
            break
    return [round(1e3 * float(np.quantile(seconds[WARMUP:], 0.25)), 3) for seconds in times]
