"""Latency under a fixed load, free of coordinated omission.

A loop that sends the next request when the last one is answered asks fewer questions while the
answers are slow, and so leaves the worst out of its percentiles. Here requests arrive by the clock;
each latency counts from the arrival, so the time spent queueing behind a stall is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.bench.stages import Summary

KEPT_UP = 0.98  # of the asked rate: the last requests are still being answered when time is up


def at_rate(
    run: Callable[[], object],
    *,
    rate: float,
    batch: int,
    seconds: float,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Serve requests that arrive at even intervals, one after the other.

    Args:
        run: Answers one request of `batch` images.
        rate: Images per second; requests arrive at `rate / batch` per second.
        batch: Images per request.
        seconds: Time over which requests arrive; at least one does.
        clock: In ns.
        sleep: Waits for seconds.

    Returns:
        "asked_img_s", "achieved_img_s", "kept_up", "requests", "latency_ms" (a Summary, from the
        scheduled arrival to the answer), "service_ms" (from when it was taken up) and
        "samples_ms", the latency of each request in order.
    """
    interval = 1e9 * batch / rate  # ns
    count = max(1, int(seconds * 1e9 / interval))
    latencies, services = np.empty(count), np.empty(count)
    start = clock()
    end = start
    for i in range(count):
        arrival = start + round(i * interval)
        while (ahead := arrival - clock()) > 0:
            # A sleep ends late by up to 0.1 ms or so: the rest is waited for awake.
            sleep(max((ahead - 200_000) / 1e9, 0))
        taken = clock()
        run()
        end = clock()
        latencies[i], services[i] = (end - arrival) / 1e6, (end - taken) / 1e6
    # Requests come over count intervals; more time than that was spent catching up.
    achieved = 1e9 * batch * count / max(end - start, count * interval)
    # Behind at the end as well: the queue grows with the time, and latencies with it.
    behind = latencies[-1] - services[-1]  # ms
    return {
        "asked_img_s": rate,
        "achieved_img_s": achieved,
        "kept_up": bool(achieved >= KEPT_UP * rate and behind < interval / 1e6),
        "requests": count,
        "latency_ms": Summary.of(latencies).to_dict(),
        "service_ms": Summary.of(services).to_dict(),
        "samples_ms": [round(ms, 4) for ms in latencies.tolist()],
    }
