"""Load on one system: run until the times no longer change, or serve at a fixed rate.

A loop that sends the next request when the last one is answered asks fewer questions while the
answers are slow, and so leaves the worst out of its percentiles (coordinated omission). At a fixed
rate requests arrive by the clock; each latency counts from the arrival, so the time spent queueing
behind a stall is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.bench.results import FixedRate, Summary, Warmup

RUNS, SPAN_S = 5, 0.25  # a window has at least this many runs, and lasts at least this long
CHANGE = 0.03  # of the median from one window to the next
LIMIT_S = 5.0
RULE = (
    f"medians of two consecutive windows (each at least {RUNS} runs and {SPAN_S:g} s) differ by "
    f"less than {CHANGE:.0%}, or {{limit:g}} s have passed"
)
KEPT_UP = 0.98  # of the asked rate: the last requests are still being answered when time is up


def warm_up(
    run: Callable[[], object],
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Warmup:
    """Call `run` until its times are stable by RULE: caches, clocks and lazy compilation settle.

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


def at_rate(
    run: Callable[[], object],
    *,
    rate: float,
    batch: int,
    seconds: float,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> FixedRate:
    """Serve requests that arrive at even intervals, one after the other.

    Args:
        run: Answers one request of `batch` images.
        rate: Images per second; requests arrive at `rate / batch` per second.
        batch: Images per request.
        seconds: Time over which requests arrive; at least one does.
        clock: In ns.
        sleep: Waits for seconds.
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
    # Requests arrive over count intervals; more time than that was spent catching up.
    achieved = 1e9 * batch * count / max(end - start, count * interval)
    # Behind at the end as well: the queue grows with the time, and latencies with it.
    behind = latencies[-1] - services[-1]  # ms
    return FixedRate(
        asked_img_s=rate,
        achieved_img_s=achieved,
        kept_up=bool(achieved >= KEPT_UP * rate and behind < interval / 1e6),
        requests=count,
        latency_ms=Summary.of(latencies),
        service_ms=Summary.of(services),
        samples_ms=[round(ms, 4) for ms in latencies.tolist()],
    )
