"""Who is let in, who waits, and who is sent away: the line and its speed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from numclip_runtime.errors import ImageError
from numclip_runtime.pipeline import StreamPlan, plan_stream
from numclip_runtime.predictor import Predictor
from numclip_runtime.results.prediction import Prediction
from numclip_runtime.serve.pace import Pace
from numclip_runtime.serve.predict_line import Job, LateError, PredictLine, Upload
from tests.runtime.slow_backend import SlowBackend
from tests.serve.conftest import (
    TINY,
    Answered,
    Running,
    ask,
    eventually,
    form,
    picture,
    running,
    unobserved_line,
)
from tests.serve.malformed import post

WHOLE = StreamPlan(batch_size=1, workers=2, lanes=2, whole=True)
BATCHES = StreamPlan(batch_size=8, workers=4, lanes=1, whole=False)


class Held:
    """A backend whose runs wait until they are let go."""

    def __init__(self, *, device: str = "cpu", lanes: int = 1) -> None:
        self.backend = SlowBackend(TINY, device=device, lanes=lanes)
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []
        self.backend.work = self._work

    def _work(self, images: object) -> None:
        self.sizes.append(len(images))  # type: ignore[arg-type]
        assert self.gate.wait(60)

    def line(self, plan: StreamPlan) -> PredictLine:
        return unobserved_line(Predictor(self.backend), plan)


@contextmanager
def held_server(plan: StreamPlan, **options: Any) -> Iterator[tuple[Running, Held]]:
    held = Held(lanes=plan.lanes)
    with running(held.line(plan), **options) as server:
        held.gate.clear()
        held.sizes.clear()
        try:
            yield server, held
        finally:
            held.gate.set()


def test_rate_of_workers_that_run_the_network() -> None:
    pace = Pace(WHOLE)
    assert pace.rate == float("inf")
    pace.decoded(0.010)
    pace.ran(0.030, 1)
    assert pace.rate == pytest.approx(2 / 0.040)


def test_rate_of_batches_is_that_of_the_slower_stage() -> None:
    pace = Pace(BATCHES)
    pace.decoded(0.010)  # 4 workers: 400/s
    pace.ran(0.080, 8)  # 1 lane: 100/s
    assert pace.rate == pytest.approx(100)
    slow = Pace(BATCHES)
    slow.decoded(0.100)  # 40/s
    slow.ran(0.080, 8)
    assert slow.rate == pytest.approx(40)


def test_pace_follows_within_some_pictures() -> None:
    pace = Pace(WHOLE)
    pace.ran(0.010, 1)
    for _ in range(60):
        pace.ran(0.100, 1)
    assert 2 / 0.100 <= pace.rate <= 2 / 0.094


def test_more_than_the_wait_is_refused_and_health_answers() -> None:
    plan = StreamPlan(batch_size=1, workers=1, lanes=1, whole=True)
    with held_server(plan, max_wait=1.0) as (server, held):
        line = server.app.line
        line.pace.forget()
        line.pace.ran(0.1, 1)  # 10 images/s, so 10 may wait; 1 more is at work, 1 when it is full
        with ThreadPoolExecutor(30) as pool:
            waiting: list[Future[Answered]] = []
            for count in range(12):  # 1 is at work, 10 may wait, and 1 more comes when that is so
                waiting.append(pool.submit(ask, server.port, body=picture()))
                eventually(lambda c=count: line.waiting + line.running == c + 1)  # type: ignore[misc]
                line.pace.decode_s, line.pace.run_s = 0.0, 0.1  # 10 images/s
            refused = ask(server.port, body=picture())
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "busy" in refused.json["error"]
            assert ask(server.port, "/healthz").status == 200
            assert ask(server.port, "/readyz").status == 200
            page = ask(server.port, "/metrics").body.decode()
            assert "numclip_images_waiting 11.0" in page
            assert "numclip_images_running 1.0" in page
            held.gate.set()
            assert [future.result().status for future in waiting] == [200] * 12
        assert ask(server.port, body=picture()).status == 200


def test_a_refusal_does_not_read_the_body() -> None:
    plan = StreamPlan(batch_size=1, workers=1, lanes=1, whole=True)
    with held_server(plan, max_wait=0.0) as (server, held):
        line = server.app.line
        with ThreadPoolExecutor(2) as pool:
            ends = []
            for count in range(2):
                ends.append(pool.submit(ask, server.port, body=picture()))
                eventually(lambda c=count: line.waiting + line.running == c + 1)  # type: ignore[misc]
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                sock.sendall(post(b"", length="1000"))
                assert sock.recv(100).startswith(b"HTTP/1.1 429")
            held.gate.set()
            assert [end.result().status for end in ends] == [200, 200]


def test_a_turn_that_comes_too_late_is_refused() -> None:
    held = Held()
    held.gate.clear()
    line = held.line(StreamPlan(batch_size=1, workers=1, lanes=1, whole=True))
    done = threading.Event()
    first = Job([Upload("", picture())], wait_s=60, finished=lambda: None)
    late = Job([Upload("", picture())] * 3, wait_s=0.0, finished=done.set)
    line.add(first)
    eventually(lambda: line.running == 1)
    line.add(late)
    time.sleep(0.01)
    held.gate.set()
    assert done.wait(60)
    line.close()
    assert isinstance(late.fault, LateError)
    assert isinstance(first.results[0], Prediction)
    assert held.backend.runs == 1


def test_who_hung_up_is_not_computed() -> None:
    plan = StreamPlan(batch_size=1, workers=1, lanes=1, whole=True)
    with held_server(plan, max_wait=60.0) as (server, held):
        line = server.app.line
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, server.port, body=picture())
            eventually(lambda: line.running == 1)
            body, kind = form([("a", picture())] * 5)
            gone = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
            for sock in gone:
                sock.sendall(post(body, kind))
            eventually(lambda: line.waiting == 15)
            for sock in gone:
                sock.close()
            eventually(lambda: line.waiting == 0)
            held.gate.set()
            assert first.result().status == 200
        assert held.sizes == [1]
        assert ask(server.port, body=picture()).status == 200


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_what_comes_while_the_network_runs_becomes_a_batch(batch_size: int) -> None:
    plan = StreamPlan(batch_size=batch_size, workers=2, lanes=1, whole=False)
    with held_server(plan, max_wait=60.0) as (server, held):
        with ThreadPoolExecutor(20) as pool:
            ends = [pool.submit(ask, server.port, body=picture())]
            eventually(lambda: held.sizes == [1])
            room = 2 * batch_size  # of inputs that wait for the lane
            ends += [pool.submit(ask, server.port, body=picture()) for _ in range(room)]
            eventually(lambda: len(server.app.line._inputs) == room)
            held.gate.set()
            assert {end.result().status for end in ends} == {200}
        assert held.sizes == [1, batch_size, batch_size]


def test_results_of_batches_are_in_their_places() -> None:
    """The line's own order, against one picture at a time."""
    from numclip_runtime import load

    predictor = load(TINY, threads=1)
    uploads = [Upload(f"{n}", picture(level=10 * n) if n % 3 else b"no") for n in range(25)]
    expected = [predictor.predict(u.content).value if u.content != b"no" else None for u in uploads]
    line = unobserved_line(predictor, StreamPlan(batch_size=4, workers=3, lanes=2, whole=False))
    done = [threading.Event() for _ in range(6)]
    jobs = [Job(uploads, wait_s=60, finished=event.set) for event in done]
    for job in jobs:
        line.add(job)
    assert all(event.wait(60) for event in done)
    for job in jobs:
        for result, number, upload in zip(job.results, expected, uploads, strict=True):
            if number is None:
                assert str(result) == f"{upload.path}: not an image that Pillow can read."
            else:
                assert isinstance(result, Prediction)
                assert result.value == pytest.approx(number, abs=1e-4)
    line.close()
    assert not any(t.is_alive() for t in (*line._workers, *line._lanes))


def test_a_failing_run_ends_all_its_jobs_and_no_other() -> None:
    held = Held()
    line = held.line(StreamPlan(batch_size=8, workers=1, lanes=1, whole=False))

    def fail(images: object) -> None:
        raise RuntimeError("the device is lost")

    held.backend.work = fail
    events = [threading.Event() for _ in range(3)]
    jobs = [Job([Upload("", picture())], wait_s=60, finished=event.set) for event in events]
    for job in jobs:
        line.add(job)
    assert all(event.wait(60) for event in events)
    assert {str(job.fault) for job in jobs} == {"the device is lost"}
    assert line.fault == "the device is lost"
    held.backend.work = lambda images: None
    event = threading.Event()
    job = Job([Upload("", picture()), Upload("b", b"no")], wait_s=60, finished=event.set)
    line.add(job)
    assert event.wait(60)
    assert isinstance(job.results[0], Prediction)
    assert isinstance(job.results[1], ImageError)
    assert (line.fault, line.running, line.waiting) == ("", 0, 0)
    line.close()


def test_closing_finishes_what_waits() -> None:
    held = Held()
    line = held.line(WHOLE)
    finished: list[int] = []
    jobs = [
        Job([Upload("", picture())] * 4, wait_s=60, finished=partial(finished.append, n))
        for n in range(5)
    ]
    for job in jobs:
        line.add(job)
    line.close()
    assert sorted(finished) == [0, 1, 2, 3, 4]
    assert held.backend.closed
    line.close()


def test_a_forced_batch_size_on_a_cpu() -> None:
    with running(batch_size=4) as server:
        assert server.app.line.plan == plan_stream(server.app.line.predictor.backend, 4)
        body, kind = form([("a", picture(level=n)) for n in range(0, 240, 20)])
        values = [r["value"] for r in ask(server.port, body=body, content_type=kind).json]
        alone = [ask(server.port, body=picture(level=n)).json["value"] for n in range(0, 240, 20)]
        assert values == pytest.approx(alone, abs=1e-4)
