"""Timing of one system: stages of each batch, warm-up, and latency at a fixed rate.

A loop that sends the next request when the last one is answered asks fewer questions while the
answers are slow, and so leaves the worst out of its percentiles (coordinated omission). At a fixed
rate requests arrive by the clock; each latency counts from the arrival, so the time spent queueing
behind a stall is in it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.bench.results import STAGES, TOTAL, FixedRate, Summary, Warmup
from numclip_runtime import Predictor
from numclip_runtime.preprocess import load_rgb, network_input

WINDOW, SPAN_S = 5, 0.25  # a window has at least this many runs, and lasts at least this long
CHANGE = 0.03  # of the median from one window to the next
WARMUP_S = 5.0  # at most
RULE = (
    f"medians of two consecutive windows (each at least {WINDOW} runs and {SPAN_S:g} s) differ by "
    f"less than {CHANGE:.0%}, or {{limit:g}} s have passed"
)
KEPT_UP = 0.98  # of the asked rate: the last requests are still being answered when time is up

Times: TypeAlias = npt.NDArray[np.float64]  # (N,) wall time of each batch, ms
Stamps: TypeAlias = npt.NDArray[np.int64]  # (N, 7) ns: start of a batch, then the end of each stage


@dataclass(frozen=True)
class Timings:
    """Wall times of N batches of one size."""

    batch: int  # images per batch
    stages: Mapping[str, Times]  # each of STAGES, then TOTAL: (N,) ms

    @classmethod
    def from_stamps(cls, stamps: Stamps, *, batch: int) -> Timings:
        """Build from clock readings (N, 7) in ns."""
        spans = np.diff(stamps, axis=1) / 1e6  # (N, 6) ms
        total = (stamps[:, -1] - stamps[:, 0]) / 1e6  # (N,) ms
        return cls(batch, dict(zip(STAGES, spans.T, strict=True)) | {TOTAL: total})

    @property
    def summaries(self) -> dict[str, Summary]:
        """One summary per stage, and of the total."""
        return {stage: Summary.of(times) for stage, times in self.stages.items()}

    @property
    def throughput_img_s(self) -> float:
        """Images per second of wall time, one batch after the other."""
        times = self.stages[TOTAL]
        return float(1e3 * self.batch * len(times) / times.sum())


def batches(paths: Sequence[str], batch: int) -> Iterator[list[str]]:
    """Yield batches of paths for ever, each continuing where the last one ended."""
    endless = itertools.cycle(paths)
    while True:
        yield list(itertools.islice(endless, batch))


def time_batch(predictor: Predictor, paths: Sequence[str]) -> tuple[int, ...]:
    """Predict one batch; return the clock, ns, at its start and after each of STAGES, (7,).

    On the CPU nothing is uploaded nor downloaded: both take 0. A backend on a GPU has a method
    `run_apart`, which also returns the time of upload and download, ns; inference is what remains
    of the run: the device's work and its launch, for which a caller waits as well.
    """
    start = perf_counter_ns()
    images = [load_rgb(path) for path in paths]
    decoded = perf_counter_ns()
    inputs = np.stack([network_input(image, predictor.metadata) for image in images])
    preprocessed = perf_counter_ns()
    upload = download = 0
    if (run_apart := getattr(predictor.backend, "run_apart", None)) is not None:
        values, bin_probs, upload, download = run_apart(inputs)
    else:
        values, bin_probs = predictor.backend.run(inputs)  # (B,), (B, K); returns when computed
    ran = perf_counter_ns()
    predictor.postprocess(values, bin_probs)
    end = perf_counter_ns()
    return start, decoded, preprocessed, preprocessed + upload, ran - download, ran, end


def measure(
    predictor: Predictor,
    source: Iterator[list[str]],
    *,
    iterations: int,
    untimed: int = 0,
    clock: Callable[[], int] = perf_counter_ns,
    seconds: float | None = None,
) -> Stamps:
    """Predict some untimed and then timed batches; return (N, 7) ns, see `time_batch`.

    Args:
        predictor: Model to measure; stays open.
        source: Of `batches`: consecutive batches have different images, as far as they reach.
        iterations: Timed batches, at least 1.
        untimed: Batches before them.
        clock: In ns, asked for `seconds`.
        seconds: Stop the timed batches after this time, in place of `iterations`.
    """
    for _ in range(untimed):
        time_batch(predictor, next(source))
    stamps, start = [], clock()
    while True:
        stamps.append(time_batch(predictor, next(source)))
        if seconds is None:
            if len(stamps) >= iterations:
                break
        elif clock() - start >= seconds * 1e9:
            break
    return np.array(stamps, np.int64)


def warm_up(
    run: Callable[[], object],
    *,
    limit_s: float = WARMUP_S,
    least: int = 1,
    clock: Callable[[], int] = perf_counter_ns,
) -> Warmup:
    """Call `run` until its times are stable by RULE: caches, clocks and lazy compilation settle.

    At `limit_s`, seconds, the run under way is finished; there are at least `least` runs. `clock`
    is in ns.
    """
    start = clock()
    runs, last, stable = 0, None, False
    window: list[int] = []
    while runs < least or (not stable and clock() - start < limit_s * 1e9):
        before = clock()
        run()
        window.append(clock() - before)
        runs += 1
        if len(window) >= WINDOW and sum(window) >= SPAN_S * 1e9:
            now = median(window)
            stable = last is not None and abs(now - last) < CHANGE * last
            last, window = now, []
    rule = RULE.format(limit=limit_s) + (f", after {least} runs" if least > 1 else "")
    return Warmup(rule, (clock() - start) / 1e9, stable, runs)


def at_rate(
    run: Callable[[], object],
    *,
    rate: float,
    batch: int,
    seconds: float,
    clock: Callable[[], int] = perf_counter_ns,
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
