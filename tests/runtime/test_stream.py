"""Streams: in order, lazily, in little memory, and what happens when something fails or ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from numclip_runtime import (
    GpuError,
    ImageError,
    Prediction,
    Predictor,
    UsageError,
    load,
    pipeline,
)
from numclip_runtime.preprocess import ImageLike
from tests.runtime.slow_backend import SlowBackend

Pixels = npt.NDArray[np.uint8]
LEVELS: list[Pixels] = [np.full((8, 8), 12 * i, np.uint8) for i in range(20)]


def threads_of_streams() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("numclip-w", "numclip-l"))]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads_of_streams() == []


@pytest.fixture(params=["onnxruntime", "openvino", "latency"])
def opened(tiny: Path, request: pytest.FixtureRequest) -> Iterator[Predictor]:
    """Return the model with several lanes, and with one."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
        predictor = load(tiny, backend="openvino", optimize_for="throughput")
    elif request.param == "latency":
        predictor = load(tiny, threads=2)
        predictor.backend.lanes = 1
    else:
        predictor = load(tiny, optimize_for="throughput")
        predictor.backend.lanes = 3  # whatever this machine has
    with predictor:
        yield predictor


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 4, 50])
def test_order_is_kept_around_failures(
    opened: Predictor, photos: Path, batch_size: int | None, workers: int | None
) -> None:
    broken = {0, 7, 8, 9, 10, 11, 19}  # a whole batch of failures among them
    inputs = [photos / "notes.txt" if i in broken else image for i, image in enumerate(LEVELS)]
    results = list(opened.stream(inputs, batch_size=batch_size, workers=workers))
    assert {i for i, result in enumerate(results) if isinstance(result, ImageError)} == broken
    assert len(results) == 20
    for image, result in zip(LEVELS, results, strict=True):
        if isinstance(result, Prediction):
            assert result.value == pytest.approx(opened.predict(image).value, abs=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_errors_of_the_source_come_out_in_their_place(
    opened: Predictor, batch_size: int | None
) -> None:
    unread = ImageError("no picture")
    inputs = [unread if i in (0, 5, 6, 7, 8, 19) else image for i, image in enumerate(LEVELS)]
    results = list(opened.stream(inputs, batch_size=batch_size, workers=3))
    assert len(results) == len(inputs)
    for given, result in zip(inputs, results, strict=True):
        assert (result is unread) if given is unread else isinstance(result, Prediction)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (1, 3), (4, 2)])
def test_the_window_is_what_the_docstring_promises(
    opened: Predictor, batch_size: int, workers: int
) -> None:
    taken = 0

    def camera() -> Iterator[Pixels]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield np.full((8, 8), taken % 256, np.uint8)

    results = opened.stream(camera(), batch_size=batch_size, workers=workers)
    assert taken == 0
    for done in (1, 30):
        assert len(list(islice(results, done))) == done
    time.sleep(0.05)  # no more are taken meanwhile
    assert 31 <= taken <= 31 + (opened.backend.lanes + 2) * batch_size + 2 * workers
    results.close()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_only_the_callers_thread_reads_the_source(opened: Predictor, batch_size: int) -> None:
    readers = set()

    def source() -> Iterator[Pixels]:
        for image in LEVELS:
            readers.add(threading.current_thread())
            yield image

    assert len(list(opened.stream(source(), batch_size=batch_size, workers=3))) == 20
    assert readers == {threading.current_thread()}


class AtOnce:
    """An executor whose work is done when `submit` returns: the fastest threads there could be."""

    def __init__(self, threads: int, name: str, initializer: Callable[[], None]) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*args))
        return done

    def shutdown(self, *, cancel_futures: bool) -> None:
        pass


@pytest.mark.parametrize("workers", [None, 1])
def test_a_result_does_not_wait_for_more_than_the_next_image(
    opened: Predictor, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", AtOnce)
    given = 0

    def slow() -> Iterator[Pixels]:
        nonlocal given
        for image in LEVELS:
            given += 1
            yield image

    for i, _ in enumerate(opened.stream(slow(), batch_size=1, workers=workers)):
        assert given == i + 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_workers_that_are_faster_than_the_source(
    opened: Predictor, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: a batch was run before its last image was counted, and lost that image."""
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", AtOnce)
    assert len(list(opened.stream(LEVELS, batch_size=batch_size, workers=1))) == 20


def test_stream_of_nothing(opened: Predictor) -> None:
    assert list(opened.stream([])) == []


@pytest.mark.parametrize("batch_size", [1, 4])
def test_error_of_the_source_comes_after_the_results_before(
    opened: Predictor, batch_size: int
) -> None:
    def source() -> Iterator[Image.Image]:
        for _ in range(5):
            yield Image.new("L", (8, 8))
        raise KeyError("camera gone")

    results = opened.stream(source(), batch_size=batch_size)
    assert len(list(islice(results, 5))) == 5
    with pytest.raises(KeyError, match="camera gone"):
        next(results)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_is_no_image_ends_the_stream(opened: Predictor, batch_size: int) -> None:
    images = [*LEVELS[:6], 7, *LEVELS]
    results = opened.stream(images, batch_size=batch_size, workers=2)  # type: ignore[arg-type]
    assert len(list(islice(results, 6))) == 6
    with pytest.raises(TypeError):
        next(results)


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 1), (1, 0)])
def test_stream_refuses_zero(predictor: Predictor, batch_size: int, workers: int) -> None:
    with pytest.raises(UsageError, match=r"must be >= 1"):
        predictor.stream([], batch_size=batch_size, workers=workers)


@pytest.mark.parametrize("lanes", [1, 2])
def test_later_images_are_decoded_while_earlier_ones_run(tiny: Path, lanes: int) -> None:
    """Each run waits until an image of a later batch is preprocessed: else it would time out."""
    backend = SlowBackend(tiny, lanes=lanes, device="A GPU")
    predictor = Predictor(backend)
    prepared = [threading.Event() for _ in range(12)]

    def preprocess(image: object) -> npt.NDArray[np.float32]:
        assert isinstance(image, int)
        prepared[image].set()
        return np.full((3, 8, 8), image, np.float32)

    predictor.preprocess = preprocess  # type: ignore[method-assign]

    def wait(images: npt.NDArray[np.float32]) -> None:
        later = int(images.max()) + 1
        if later < 12 - 3:  # what the last ones would wait for does not exist
            assert prepared[later + 2].wait(10), "nothing was prepared while a batch ran"

    backend.work = wait
    with predictor:
        results = list(predictor.stream(range(12), batch_size=3, workers=2))  # type: ignore[arg-type]
    assert len(results) == 12
    assert all(isinstance(result, Prediction) for result in results)


@pytest.mark.parametrize(("device", "batch_size"), [("cpu", 1), ("A GPU", 1), ("A GPU", 3)])
def test_lanes_run_at_the_same_time_and_no_more(tiny: Path, device: str, batch_size: int) -> None:
    backend = SlowBackend(tiny, lanes=2, device=device)
    meeting = threading.Barrier(2)  # a run goes on when another one is under way
    backend.work = lambda images: meeting.wait(10)
    with Predictor(backend) as predictor:
        images = LEVELS[: 4 * batch_size]
        results = list(predictor.stream(images, batch_size=batch_size, workers=4))
        assert len(results) == len(images)
    assert backend.most == 2


@pytest.mark.parametrize(("device", "batch_size"), [("cpu", 1), ("A GPU", 4)])
def test_a_failing_gpu_ends_the_stream(tiny: Path, device: str, batch_size: int) -> None:
    backend = SlowBackend(tiny, lanes=2, device=device)
    with Predictor(backend) as predictor:
        endless = (LEVELS[i % 20] for i in count())  # 20 may all have run before the failure
        results = predictor.stream(endless, batch_size=batch_size, workers=2)
        next(results)

        def fail(images: object) -> None:
            raise GpuError("out of memory")

        backend.work = fail
        with pytest.raises(GpuError, match="out of memory"):
            list(results)
        assert threads_of_streams() == []


@pytest.mark.parametrize(("device", "batch_size"), [("cpu", 1), ("A GPU", 4)])
def test_closing_a_stream_stops_its_threads(tiny: Path, device: str, batch_size: int) -> None:
    backend = SlowBackend(tiny, lanes=2, device=device)
    with Predictor(backend) as predictor:
        results = predictor.stream((LEVELS[i % 20] for i in count()), batch_size=batch_size)
        next(results)
        results.close()
        assert threads_of_streams() == []
        ran = backend.runs
        time.sleep(0.05)
        assert backend.runs == ran
        del results


@pytest.mark.parametrize("batch_size", [1, 4])
def test_closing_the_predictor_ends_its_streams(opened: Predictor, batch_size: int) -> None:
    results = opened.stream((LEVELS[i % 20] for i in count()), batch_size=batch_size)
    next(results)
    opened.close()
    with pytest.raises(UsageError, match="this predictor was closed; load the model again"):
        list(results)


@pytest.mark.parametrize("device", ["cpu", "A GPU"])
def test_images_of_a_batch_of_one_are_not_copied(tiny: Path, device: str) -> None:
    backend = SlowBackend(tiny, lanes=2, device=device)
    seen: list[npt.NDArray[np.float32]] = []
    made: list[npt.NDArray[np.float32]] = []
    backend.work = seen.append
    with Predictor(backend) as predictor:
        preprocess = predictor.preprocess

        def recorded(image: ImageLike) -> npt.NDArray[np.float32]:
            made.append(preprocess(image))
            return made[-1]

        predictor.preprocess = recorded  # type: ignore[method-assign]
        predictor.predict(LEVELS[3])
        list(predictor.stream(LEVELS[:2], batch_size=1, workers=2))
    assert len(seen) == 3
    assert all(any(np.shares_memory(images, one) for one in made) for images in seen)


def test_ctrl_c_ends_a_script_at_once(tiny: Path) -> None:
    code = (
        "import itertools, sys, numpy as np\n"
        "from numclip_runtime import load\n"
        "images = itertools.repeat(np.zeros((8, 8), np.uint8))\n"
        "for i, _ in enumerate(load(sys.argv[1], optimize_for='throughput').stream(images)):\n"
        "    if i == 20:\n"
        "        print('running', flush=True)\n"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-c", code, str(tiny)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as run:
        signal.signal(signal.SIGINT, before)
        assert run.stdout is not None
        assert run.stdout.readline() == "running\n"
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=20)
    assert errors.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_thread_that_ends_ends_the_stream(
    opened: Predictor, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory runs out in the pool's own code, a thread ends and its work is never done."""

    def run(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr("concurrent.futures.thread._WorkItem.run", run)
    monkeypatch.setattr(pipeline, "HEALTH_S", 0.02)
    with pytest.raises(MemoryError, match="a thread of the pipeline has ended"):
        list(opened.stream(LEVELS, batch_size=batch_size, workers=2))


@pytest.mark.parametrize(("batch_size", "allowed"), [(1, 0), (1, 1), (3, 0), (3, 3)])
def test_no_memory_for_a_thread_ends_the_stream(
    opened: Predictor, batch_size: int, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself would wait for ever for a thread that ends at its birth."""
    asked: list[int] = []

    def room() -> None:
        asked.append(1)
        if len(asked) > allowed:
            raise MemoryError("no room")

    monkeypatch.setattr(pipeline, "check_room_for_thread", room)
    with pytest.raises(MemoryError, match="no room"):
        list(opened.stream(LEVELS, batch_size=batch_size, workers=2))


@pytest.mark.posix("limits memory")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
@pytest.mark.parametrize(("spare", "said"), [(5, "no room for another thread"), (40, "fits")])
def test_room_for_a_thread_is_asked_of_the_system(spare: int, said: str) -> None:
    code = f"""
import resource
from pathlib import Path
from numclip_runtime.posix import check_room_for_thread
check_room_for_thread()
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ({spare} << 20),) * 2)
try:
    check_room_for_thread()
    print("fits")
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{said}\n"


def test_a_timeout_of_the_network_is_no_wait(
    opened: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that waiting for a result raises is of the same class."""
    error = TimeoutError("the network took too long")

    def run(self: object, *_: object) -> None:
        raise error

    monkeypatch.setattr(type(opened.backend), "run", run)
    monkeypatch.setattr(pipeline, "HEALTH_S", 0.001)
    with pytest.raises(TimeoutError, match="the network took too long") as caught:
        list(opened.stream(LEVELS, workers=2))
    assert caught.value is error
