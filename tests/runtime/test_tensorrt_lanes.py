"""Runs that overlap: lanes, their memory and their end, on a stand-in that works by itself.

The stand-in driver has an engine for uploads, one for kernels and one for downloads, takes as long
as a test says, and records what ran when. Nothing here says that a real GPU does the same.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from numclip_runtime import GpuError, Predictor, UsageError
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend
from numclip_runtime.cuda.resources import Event, Stream
from numclip_runtime.preprocess import FloatArray
from tests.runtime.opener import Opener
from tests.runtime.standin import Span, StandinDriver
from tests.runtime.test_tensorrt_backend import images

ONE_LANE = {"device": 2, "pinned": 2, "stream": 1, "context": 1}
TWO_LANES = {"device": 4, "pinned": 4, "stream": 2, "context": 1}


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns often: what depends on luck then fails soon."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def run_all(backend: Any, batches: list[FloatArray], threads: int = 2) -> list[Any]:
    """Run batches from several threads; return the results in the batches' order."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(backend.run, batches))


def warm_up(backend: Any, standin: StandinDriver, batches: list[FloatArray]) -> None:
    """Run until both lanes are there and have a graph for the batches' one size."""
    while standin.alive.get("graph exec") != 2:
        with standin.working(0, 2, 0):
            run_all(backend, batches * 2)
    standin.forget()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def by_run(spans: list[Span]) -> list[tuple[Span, Span, Span]]:
    """Return (upload, kernel, download) of each run, in the order of the uploads."""
    runs = []
    for stream in {span.stream for span in spans}:
        own = sorted((s for s in spans if s.stream == stream), key=lambda s: s.start)
        assert [s.engine for s in own] == ["upload", "kernel", "download"] * (len(own) // 3)
        assert all(a.end <= b.start for a, b in pairwise(own))
        runs += [(own[i], own[i + 1], own[i + 2]) for i in range(0, len(own), 3)]
    return sorted(runs, key=lambda run: run[0].start)


@pytest.mark.parametrize("graphs", [False, True])
def test_upload_overlaps_the_compute_before(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor, graphs: bool
) -> None:
    backend, _ = open_plan(capturable=graphs)
    batches = [images(4, seed) for seed in range(20)]
    if graphs:
        warm_up(backend, standin, batches[:4])
    with standin.working(5, 10, 2):
        found = run_all(backend, batches)
    runs = by_run(standin.spans)
    assert len(runs) == len(batches)
    pairs = list(pairwise(runs))
    uploads = [after[0].overlaps(before[1]) for before, after in pairs]
    downloads = [before[2].overlaps(after[1]) for before, after in pairs]
    # Nearly all: but a thread that the machine lets wait for 10 ms comes too late. One lane: none.
    assert sum(uploads) > len(pairs) / 2, uploads
    assert sum(downloads) > len(pairs) / 2, downloads
    for batch, (values, bin_probs) in zip(batches, found, strict=True):
        expected = predictor.backend.run(batch)
        np.testing.assert_allclose(values, expected[0], atol=1e-5)
        np.testing.assert_allclose(bin_probs, expected[1], atol=1e-6)
    assert ("cuGraphLaunch" in standin.calls) == backend.cuda_graphs == graphs
    backend.close()
    assert standin.alive == {}


def test_one_lane_overlaps_nothing(open_plan: Opener, standin: StandinDriver) -> None:
    backend, _ = open_plan(lanes=1)
    standin.forget()
    with standin.working(2, 4, 1):
        run_all(backend, [images(2, seed) for seed in range(6)])
    ordered = [span for run in by_run(standin.spans) for span in run]
    assert not any(a.overlaps(b) for a, b in pairwise(ordered))
    assert standin.alive == ONE_LANE | {"graph exec": 1}
    backend.close()


def test_lanes_are_made_on_opening(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan()
    assert backend.lanes == 2
    assert standin.alive == TWO_LANES
    assert behaviour.made == ["lazy", "lazy"]
    backend.close()


def test_lanes_are_made_once(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan()
    warm_up(backend, standin, [images(3)] * 4)
    assert standin.alive == TWO_LANES | {"graph exec": 2}
    with standin.working(1, 2, 1):
        run_all(backend, [images(3, seed) for seed in range(12)], threads=6)
    assert {call for call in standin.calls if "Ctx" not in call} == {
        "cuGraphLaunch",
        "cuStreamSynchronize",
    }
    assert len(behaviour.made) == 4
    backend.close()
    assert (standin.alive, len(behaviour.alive)) == ({}, 0)


@pytest.mark.parametrize("lanes", [2, 3])
def test_captures_and_first_runs_keep_apart(
    open_plan: Opener, predictor: Predictor, quick_switches: None, lanes: int
) -> None:
    """Making a context and its first run break the captures of all threads, in the stand-in."""
    for _ in range(5):
        backend, _ = open_plan(capture_s=0.005, lanes=lanes)
        batches = [images(1 + seed % 3, seed) for seed in range(24)]
        found = run_all(backend, batches, threads=4)
        for batch, (values, _) in zip(batches, found, strict=True):
            np.testing.assert_allclose(values, predictor.backend.run(batch)[0], atol=1e-5)
        assert (backend.notes, backend.cuda_graphs) == ([], True)
        backend.close()


@pytest.mark.parametrize(
    ("behaviour", "function", "after", "reason"),
    [
        ({"executions": 1}, None, 0, "no memory for another execution context (out of memory)"),
        ({}, "cuMemAlloc_v2", 2, "cuMemAlloc_v2 failed: out of memory"),
        ({}, "cuMemHostAlloc", 2, "cuMemHostAlloc failed: out of memory"),
        ({}, "cuStreamCreate", 1, "cuStreamCreate failed: out of memory"),
    ],
)
def test_no_memory_for_a_second_lane(
    open_plan: Opener,
    standin: StandinDriver,
    predictor: Predictor,
    behaviour: Any,
    function: str | None,
    after: int,
    reason: str,
) -> None:
    if function is not None:
        standin.fail(function, 2, after=after)
    backend, _ = open_plan(lanes=3, **behaviour)
    assert backend.lanes == 1
    (note,) = backend.notes
    assert "x.plan: at most 1 batch at a time, so none overlap: " in note
    assert reason in note
    assert "\n" not in note
    assert standin.alive == ONE_LANE
    batches = [images(1 + seed % 5, seed) for seed in range(12)]
    with standin.working(1, 1, 1):
        found = run_all(backend, batches, threads=4)
    for batch, (values, _) in zip(batches, found, strict=True):
        np.testing.assert_allclose(values, predictor.backend.run(batch)[0], atol=1e-5)
    assert {k: v for k, v in standin.alive.items() if k != "graph exec"} == ONE_LANE
    backend.close()


def test_close_waits_for_what_runs(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    backend, behaviour = open_plan()
    batches = [images(2, seed) for seed in range(2)]
    warm_up(backend, standin, batches)
    behaviour.gate.clear()
    with standin.working(1, 1, 1), ThreadPoolExecutor(3) as pool:
        running = [pool.submit(backend.run, batch) for batch in batches]
        wait_for(lambda: standin.calls.count("cuGraphLaunch") == 2)
        closing = pool.submit(backend.close)
        wait_for(lambda: backend._guard._free is not None)
        with pytest.raises(UsageError, match=r"x\.plan: was closed"):
            backend.run(batches[0])
        assert not closing.done()
        assert standin.alive == TWO_LANES | {"graph exec": 2}
        behaviour.gate.set()
        closing.result()
        assert standin.alive == {}
        for batch, run in zip(batches, running, strict=True):
            values, _ = run.result()
            np.testing.assert_allclose(values, predictor.backend.run(batch)[0], atol=1e-5)
    with pytest.raises(UsageError, match=r"x\.plan: was closed"):
        backend.run(batches[0])


def test_close_waits_for_what_waits_for_a_lane(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    backend, behaviour = open_plan()
    batches = [images(2, seed) for seed in range(4)]
    behaviour.gate.clear()
    with standin.working(1, 1, 1), ThreadPoolExecutor(5) as pool:
        running = [pool.submit(backend.run, batch) for batch in batches]
        wait_for(lambda: len(backend._guard._inside) == 4)
        closing = pool.submit(backend.close)
        behaviour.gate.set()
        closing.result()
        assert standin.alive == {}
        for batch, run in zip(batches, running, strict=True):
            values, _ = run.result()
            np.testing.assert_allclose(values, predictor.backend.run(batch)[0], atol=1e-5)


def test_errors_leave_nothing_under_way(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    backend, _ = open_plan(lanes=1)
    with standin.working(5, 5, 5):
        for function in ("cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"):
            standin.fail(function, 700)
            with pytest.raises(GpuError, match=rf"{function} failed"):
                backend.run(images(2))
            done = len(standin.spans)
            time.sleep(0.02)
            assert len(standin.spans) == done
        values, _ = backend.run(images(2, 1))
        np.testing.assert_allclose(values, predictor.backend.run(images(2, 1))[0], atol=1e-5)
        standin.fail("cuMemcpyDtoHAsync_v2", 700)
        with pytest.raises(GpuError):
            backend.run(images(3))
        backend.close()
    assert standin.alive == {}


def test_many_threads_get_their_own_results(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor, quick_switches: None
) -> None:
    backend, _ = open_plan(uint8=True, lanes=3)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (1 + i % 6, 1, 1, 3), np.uint8) for i in range(120)]
    batches = [np.ascontiguousarray(np.broadcast_to(b, (len(b), 8, 8, 3))) for b in batches]
    expected = [backend.run(batch) for batch in batches]  # one after the other
    with standin.working(0.1, 0.2, 0.1):
        found = run_all(backend, batches, threads=8)
    for one, other in zip(expected, found, strict=True):
        assert (one[0] == other[0]).all()
        assert (one[1] == other[1]).all()
    backend.close()
    del backend
    gc.collect()
    assert standin.alive == {}


def test_trace(open_plan: Opener, standin: StandinDriver) -> None:
    backend, _ = open_plan()
    times: list[tuple[str, Event]] = []

    def mark(stream: Stream, stage: str) -> None:
        event = Event(stream.context)
        event.record(stream)
        times.append((stage, event))

    backend.trace(mark)
    with standin.working(4, 8, 2):
        for _ in range(3):
            backend.run(images(2))
    assert [stage for stage, _ in times] == ["start", "upload", "compute", "download"] * 3
    events = [event for _, event in times]
    with events[0].context.current():
        lasted = [b.milliseconds_since(a) for a, b in pairwise(events[:4])]
    assert lasted[0] >= 4
    assert lasted[1] >= 8
    assert 2 <= lasted[2] < lasted[1]
    assert "cuGraphLaunch" not in standin.calls
    for event in events:
        event.close()
    backend.close()


def test_no_lane_at_all(open_plan: Opener, standin: StandinDriver) -> None:
    open_plan()[0].close()
    with pytest.raises(UsageError, match="lanes must be at least 1, got 0"):
        TensorRTBackend(open_plan.folder / "x.plan", library=standin.path, lanes=0)


def test_threads_that_want_a_lane_at_once(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan()
    behaviour.gate.clear()
    with standin.working(1, 1, 1), ThreadPoolExecutor(6) as pool:
        running = [pool.submit(backend.run, images(2, seed)) for seed in range(6)]
        wait_for(lambda: standin.calls.count("cuStreamSynchronize") == 2)
        assert standin.alive == TWO_LANES
        behaviour.gate.set()
        for run in running:
            run.result()
    assert {k: v for k, v in standin.alive.items() if k != "graph exec"} == TWO_LANES
    assert len(behaviour.seen) == 6
    backend.close()


@pytest.mark.posix("sends SIGUSR1")
def test_close_in_a_signal_handler(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    """The run that it interrupts has all that it needs, and its end frees it."""
    backend, behaviour = open_plan()
    alive = []

    def close(signum: int, frame: object) -> None:
        backend.close()
        alive.append(standin.alive)

    def interrupt() -> None:
        wait_for(lambda: "cuStreamSynchronize" in standin.calls)
        signal.pthread_kill(main, signal.SIGUSR1)
        behaviour.gate.set()

    main = threading.get_ident()
    behaviour.gate.clear()
    before = signal.signal(signal.SIGUSR1, close)
    try:
        with standin.working(1, 1, 1), ThreadPoolExecutor(1) as pool:
            interrupting = pool.submit(interrupt)
            values, _ = backend.run(images(2))
            interrupting.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert alive == [TWO_LANES]
    np.testing.assert_allclose(values, predictor.backend.run(images(2))[0], atol=1e-5)
    assert standin.alive == {}
    with pytest.raises(UsageError, match=r"x\.plan: was closed"):
        backend.run(images(2))
