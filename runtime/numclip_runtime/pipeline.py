"""Many images through a network in order: decoding, preprocessing and inference side by side.

Threads do it: Pillow and the backends release the interpreter's lock while they work, and threads
share one copy of the weights. With 2 cores, ViT-B/32 INT8 and JPEGs of 2 megapixels, a loop gives
20 images/s; two threads on one session of 1 thread 43, on one of 2 threads 31, and three threads no
more than two.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from numclip_runtime.backends import Backend
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.preprocess import ImageLike, InputArray
from numclip_runtime.system import usable_cores

if TYPE_CHECKING:  # 5 ms of every start, for single images as well
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")
Preprocess: TypeAlias = Callable[[ImageLike], InputArray]  # one image -> (...), or ImageError
Predict: TypeAlias = Callable[[InputArray], list[T]]  # (B, ...) -> B results

GPU_BATCH = 16  # a larger one fills a GPU little better, and its first result comes later


@dataclass(frozen=True)
class StreamPlan:
    """How a stream uses the machine."""

    batch_size: int  # images per run of the network
    workers: int  # threads that decode and preprocess
    lanes: int  # runs of the network at a time
    # Each worker takes its image all the way: one hand-over per image, and no more threads than
    # cores. False: workers fill batches, and `lanes` other threads run them.
    whole: bool

    @property
    def window(self) -> int:
        """Images in flight at most: those running, a batch before and after, 2 per worker."""
        return (self.lanes + 2) * self.batch_size + 2 * self.workers


def plan_stream(
    backend: Backend, batch_size: int | None = None, workers: int | None = None
) -> StreamPlan:
    """Choose what is not given.

    Args:
        backend: What runs the network.
        batch_size: None: 1 on a CPU, which gains nothing by more, and where the dynamic scales of
            INT8 would depend on the other images; on a GPU `GPU_BATCH`, or what it takes.
        workers: None: one per usable core.

    Raises:
        UsageError: if one of them is below 1.
    """
    if workers is None:
        workers = usable_cores()
    on_cpu = backend.device == "cpu"
    if batch_size is None:
        batch_size = 1 if on_cpu else min(GPU_BATCH, backend.max_batch or GPU_BATCH)
    if batch_size < 1 or workers < 1:
        raise UsageError(f"batch_size ({batch_size}) and workers ({workers}) must be >= 1.")
    lanes = backend.lanes
    # A single worker would decode and run by turns.
    whole = on_cpu and batch_size == 1 and lanes > 1 and workers > 1
    return StreamPlan(batch_size, workers, min(lanes, workers) if whole else lanes, whole)


def stream(
    images: Iterable[ImageLike], plan: StreamPlan, preprocess: Preprocess, predict: Predict[T]
) -> Generator[T | ImageError, None, None]:
    """Yield one result per image, in order; see `Predictor.stream`.

    Args:
        images: Advanced by the thread that takes the results, at most `plan.window` ahead of them.
        plan: Threads and batches.
        preprocess: Called by `plan.workers` threads.
        predict: Called by `plan.lanes` threads.

    Raises:
        Whatever `preprocess` (an ImageError aside), `predict` or, after the results of what it
        gave, `images` raised.
    """
    source, failure, ended, refill = iter(images), None, False, False
    in_flight = 0  # taken from the source, and not yielded
    ready: deque[T | ImageError] = deque()
    line: _Line[T]
    if plan.whole:
        line = _WholeImages(plan, preprocess, predict)
    else:
        line = _Batches(plan, preprocess, predict)
    try:
        while True:
            # One for each that went out; more only while there is nothing to give: the source may
            # be a slow one.
            if (
                not ended
                and in_flight < plan.window
                and (refill or not (ready or line.head_done()))
            ):
                refill = False
                try:
                    image = next(source)
                except StopIteration:
                    ended = True
                    line.flush()
                except Exception as error:
                    failure, ended = error, True
                    line.flush()
                else:
                    in_flight += 1
                    line.add(image)
            elif ready:
                in_flight -= 1
                refill = True
                yield ready.popleft()
            elif line.pending:
                ready.extend(line.pending.popleft().result())
            elif failure is not None:
                raise failure
            else:
                return
    finally:
        line.close()


class _Line(Protocol[T]):
    pending: deque[Future[list[T | ImageError]]]  # of the images taken, in order

    def head_done(self) -> bool: ...

    def add(self, image: ImageLike) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _WholeImages(Generic[T]):
    """Each worker decodes, preprocesses and runs its own image."""

    def __init__(self, plan: StreamPlan, preprocess: Preprocess, predict: Predict[T]) -> None:
        self.pending: deque[Future[list[T | ImageError]]] = deque()
        self._preprocess, self._predict = preprocess, predict
        self._lane: AbstractContextManager[object] = (
            threading.Semaphore(plan.lanes) if plan.lanes < plan.workers else nullcontext()
        )
        self._stopped = False
        self._pool = _threads(plan.workers, "numclip-worker")

    def head_done(self) -> bool:
        return bool(self.pending) and self.pending[0].done()

    def add(self, image: ImageLike) -> None:
        self.pending.append(self._pool.submit(self._take, image))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)  # waits for what runs: one image per worker

    def _take(self, image: ImageLike) -> list[T | ImageError]:
        try:
            inputs = self._preprocess(image)[None]  # (1, ...)
        except ImageError as error:
            return [error]
        with self._lane:
            return [] if self._stopped else [*self._predict(inputs)]


class _Batches(Generic[T]):
    """Workers decode into batches; whoever completes a batch hands it to a lane."""

    def __init__(self, plan: StreamPlan, preprocess: Preprocess, predict: Predict[T]) -> None:
        self.pending: deque[Future[list[T | ImageError]]] = deque()
        self._preprocess, self._predict = preprocess, predict
        self._size = plan.batch_size
        self._open: _Batch[T] | None = None  # has room for the next image
        self._stopped = False
        self._workers = _threads(plan.workers, "numclip-worker")
        self._lanes = _threads(plan.lanes, "numclip-lane")

    def head_done(self) -> bool:
        return bool(self.pending) and self.pending[0].done()

    def add(self, image: ImageLike) -> None:
        batch = self._open
        if batch is None:
            batch = self._open = _Batch(self._size)
            self.pending.append(batch.results)
        index = batch.count
        batch.count += 1  # first: whoever fills the last place runs it at once
        if batch.count == self._size:
            self._open = None
        self._workers.submit(self._decode, batch, index, image)

    def flush(self) -> None:
        """Run the last batch, which is not full."""
        batch, self._open = self._open, None
        if batch is not None and batch.leave(self._size - batch.count):
            self._lanes.submit(self._run, batch)

    def close(self) -> None:
        self._stopped = True
        # First the workers, who hand batches to the lanes. Both wait for what runs, no longer.
        self._workers.shutdown(cancel_futures=True)
        self._lanes.shutdown(cancel_futures=True)

    def _decode(self, batch: _Batch[T], index: int, image: ImageLike) -> None:
        if self._stopped:
            return
        try:
            batch.put(index, self._preprocess(image))
        except ImageError as error:
            batch.errors[index] = error
        except BaseException as error:  # raised again where the results are taken
            batch.fail(error)
        if batch.leave(1):
            self._lanes.submit(self._run, batch)

    def _run(self, batch: _Batch[T]) -> None:
        if self._stopped:
            return
        try:
            inputs = batch.inputs()
            results = iter(() if inputs is None else self._predict(inputs))
            batch.finish([batch.errors.get(i) or next(results) for i in range(batch.count)])
        except BaseException as error:
            batch.fail(error)


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(count, thread_name_prefix=name)


class _Batch(Generic[T]):
    def __init__(self, size: int) -> None:
        from concurrent.futures import Future

        self.results: Future[list[T | ImageError]] = Future()
        self.errors: dict[int, ImageError] = {}  # by place
        self.count = 0  # images in it
        self._size = size
        self._awaited = size  # places that are neither filled nor given up
        self._array: InputArray | None = None  # (size, ...)
        self._lock = threading.Lock()

    def put(self, index: int, one: InputArray) -> None:
        """Store one input; workers copy at the same time, so that lanes need not."""
        if self._size == 1:
            self._array = one[None]
            return
        with self._lock:
            if self._array is None:
                self._array = np.empty((self._size, *one.shape), one.dtype)
        self._array[index] = one

    def leave(self, places: int) -> bool:
        """Count filled or empty places off; return whether these were the last ones."""
        with self._lock:
            self._awaited -= places
            return self._awaited == 0 and not self.results.done()

    def inputs(self) -> InputArray | None:
        """Return the inputs of those that could be read, (B, ...); None if there are none."""
        if self._array is None:
            return None
        if not self.errors:
            return self._array[: self.count]
        return self._array[[i for i in range(self.count) if i not in self.errors]]

    def finish(self, results: list[T | ImageError]) -> None:
        self._array = None  # the caller may be slow to take the results
        self.results.set_result(results)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self._array = None
            if not self.results.done():
                self.results.set_exception(error)
