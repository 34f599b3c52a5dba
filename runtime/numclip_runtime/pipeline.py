"""Predict many images in order: decoding, preprocessing and inference side by side.

It uses threads: Pillow and the backends release the interpreter's lock while they work, and threads
share one copy of the weights. With 2 cores, ViT-B/32 INT8 and JPEGs of 2 megapixels, a loop gives
20 images/s; two threads on one session of 1 thread give 43, on one of 2 threads 31, and a third
thread gains nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

from numclip_runtime.backends import Backend
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.posix import check_room_for_thread
from numclip_runtime.preprocess import ImageLike, InputArray
from numclip_runtime.system import usable_cores

if TYPE_CHECKING:  # 5 ms of every start, even for single images
    from concurrent.futures import Future, ThreadPoolExecutor

_T = TypeVar("_T")
_R = TypeVar("_R")
Preprocess: TypeAlias = Callable[[ImageLike], InputArray]  # one image -> (...), or ImageError
Predict: TypeAlias = Callable[[InputArray], list[_T]]  # (B, ...) -> B results

HEALTH_S = 1.0  # how often the threads are looked at while a result is awaited
GPU_BATCH = 16  # a larger one hardly fills a GPU better, and its first result comes later


@dataclass(frozen=True)
class StreamPlan:
    """How a stream uses the machine."""

    batch_size: int  # images per run of the network
    workers: int  # threads that decode and preprocess
    lanes: int  # runs of the network at a time
    # Workers also run the network: one hand-over per image, and no more threads than cores.
    # False: they fill batches, and `lanes` other threads run them.
    whole: bool

    @property
    def window(self) -> int:
        """Largest number of images in flight: running, a batch before and after, 2 per worker."""
        return (self.lanes + 2) * self.batch_size + 2 * self.workers


def plan_stream(
    backend: Backend, batch_size: int | None = None, workers: int | None = None
) -> StreamPlan:
    """Choose the numbers that are not given.

    Args:
        backend: Runs the network.
        batch_size: None: 1 on a CPU, where more gain nothing, and the dynamic scales of INT8 would
            depend on the other images; on a GPU `GPU_BATCH`, or the backend's limit.
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
    # A single worker would decode and run alternately.
    whole = on_cpu and batch_size == 1 and lanes > 1 and workers > 1
    return StreamPlan(batch_size, workers, min(lanes, workers) if whole else lanes, whole)


def stream(
    images: Iterable[ImageLike | ImageError],
    plan: StreamPlan,
    preprocess: Preprocess,
    predict: Predict[_T],
) -> Generator[_T | ImageError, None, None]:
    """Yield one result per image, in order; see `Predictor.stream`.

    Args:
        images: Advanced by the thread that takes the results, at most `plan.window` ahead of them.
        plan: Threads and batches.
        preprocess: Called by `plan.workers` threads.
        predict: Called by `plan.lanes` threads.

    Raises:
        Exception: of `preprocess` (an ImageError aside), of `predict`, or, after the results of the
            images before, of `images`.
    """
    source, failure, ended, refill = iter(images), None, False, False
    in_flight = 0  # taken from the source, and not yielded
    ready: deque[_T | ImageError] = deque()
    work = _Work(plan, preprocess, predict)
    pending = work.pending
    try:
        while True:
            # Take one image per result yielded; take more only if no result is ready, because the
            # source may block.
            if (
                not ended
                and in_flight < plan.window
                and (refill or not (ready or (pending and pending[0].done())))
            ):
                refill = False
                try:
                    image = next(source)
                except StopIteration:
                    ended = True
                    work.flush()
                except Exception as error:
                    failure, ended = error, True
                    work.flush()
                else:
                    in_flight += 1
                    work.add(image)
            elif ready:
                in_flight -= 1
                refill = True
                yield ready.popleft()
            elif pending:
                ready.extend(work.result(pending.popleft()))
            elif failure is not None:
                raise failure
            else:
                return
    finally:
        work.close()


class _Work(Generic[_T]):
    """The threads of a stream, and the results they have promised.

    Workers decode into batches, and the one that completes a batch gives it to a lane. If
    `plan.whole`, a worker runs the network on its image itself.
    """

    def __init__(self, plan: StreamPlan, preprocess: Preprocess, predict: Predict[_T]) -> None:
        self.pending: deque[Future[list[_T | ImageError]]] = deque()  # in order of the images
        self._preprocess, self._predict = preprocess, predict
        self._size, self._whole = plan.batch_size, plan.whole
        self._open: _Batch[_T] | None = None  # has room for the next image
        self._stopped = False
        self._threads: list[Thread] = []  # that have begun
        self._most = plan.workers + (0 if plan.whole else plan.lanes)
        self._workers = self._pool(plan.workers, "numclip-worker")
        self._lanes = self._workers if plan.whole else self._pool(plan.lanes, "numclip-lane")
        # Of workers that run the network
        self._turn = threading.Semaphore(plan.lanes) if plan.lanes < plan.workers else nullcontext()

    def _pool(self, count: int, name: str) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(count, name, lambda: self._threads.append(current_thread()))

    def _submit(self, pool: ThreadPoolExecutor, work: Callable[..., _R], *args: Any) -> Future[_R]:
        if len(self._threads) < self._most:
            check_room_for_thread()
        return pool.submit(work, *args)

    def result(self, promised: Future[list[_T | ImageError]]) -> list[_T | ImageError]:
        """Wait for a result.

        Raises:
            MemoryError: if a thread has ended: where memory runs out in the pool's own code, it
                ends, and what it was at work on is never done.
        """
        while True:
            try:
                return promised.result(HEALTH_S)
            except Exception:  # of the work, or a TimeoutError because it is still waited for
                if promised.done():
                    return promised.result()
                if not all(map(Thread.is_alive, self._threads)):
                    raise MemoryError("a thread of the pipeline has ended") from None

    def add(self, image: ImageLike | ImageError) -> None:
        if self._whole:
            self.pending.append(self._submit(self._workers, self._predict_one, image))
            return
        batch = self._open
        if batch is None:
            batch = self._open = _Batch(self._size)
            self.pending.append(batch.results)
        index = batch.count
        batch.count += 1  # first: the worker that fills the last place gives it to a lane at once
        if batch.count == self._size:
            self._open = None
        self._submit(self._workers, self._decode, batch, index, image)

    def flush(self) -> None:
        """Run the last batch, which is not full."""
        batch, self._open = self._open, None
        if batch is not None and batch.leave(self._size - batch.count):
            self._submit(self._lanes, self._run, batch)

    def close(self) -> None:
        self._stopped = True
        # Workers first, since they give batches to lanes. Both wait only for the work under way.
        self._workers.shutdown(cancel_futures=True)
        self._lanes.shutdown(cancel_futures=True)

    def _input(self, image: ImageLike | ImageError) -> InputArray | ImageError:
        try:
            return image if isinstance(image, ImageError) else self._preprocess(image)
        except ImageError as error:
            return error

    def _predict_one(self, image: ImageLike | ImageError) -> list[_T | ImageError]:
        one = self._input(image)
        if isinstance(one, ImageError):
            return [one]
        with self._turn:
            return [] if self._stopped else [*self._predict(one[None])]  # (1, ...)

    def _decode(self, batch: _Batch[_T], index: int, image: ImageLike | ImageError) -> None:
        if self._stopped:
            return
        try:
            batch.put(index, self._input(image))
            if batch.leave(1):
                self._submit(self._lanes, self._run, batch)
        except BaseException as error:  # raised again where the results are taken
            batch.fail(error)

    def _run(self, batch: _Batch[_T]) -> None:
        if self._stopped:
            return
        try:
            inputs = batch.inputs()
            results = iter(() if inputs is None else self._predict(inputs))
            batch.finish([batch.errors.get(i) or next(results) for i in range(batch.count)])
        except BaseException as error:
            batch.fail(error)


class _Batch(Generic[_T]):
    def __init__(self, size: int) -> None:
        from concurrent.futures import Future

        self.results: Future[list[_T | ImageError]] = Future()
        self.errors: dict[int, ImageError] = {}  # by place
        self.count = 0  # images in it
        self._size = size
        self._awaited = size  # places that are neither filled nor left empty
        self._array: InputArray | None = None  # (size, ...)
        self._lock = threading.Lock()

    def put(self, index: int, one: InputArray | ImageError) -> None:
        """Store one input; workers copy concurrently, so that lanes need not."""
        if isinstance(one, ImageError):
            self.errors[index] = one
            return
        if self._size == 1:
            self._array = one[None]
            return
        with self._lock:
            if self._array is None:
                self._array = np.empty((self._size, *one.shape), one.dtype)
        self._array[index] = one

    def leave(self, places: int) -> bool:
        """Count places as filled or left empty; return whether these were the last ones."""
        with self._lock:
            self._awaited -= places
            return self._awaited == 0 and not self.results.done()

    def inputs(self) -> InputArray | None:
        """Return the inputs of the images that could be read, (B, ...); None if there are none."""
        if self._array is None:
            return None
        if not self.errors:
            return self._array[: self.count]
        return self._array[[i for i in range(self.count) if i not in self.errors]]

    def finish(self, results: list[_T | ImageError]) -> None:
        self._array = None  # the caller may be slow to take the results
        self.results.set_result(results)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self._array = None
            if not self.results.done():
                self.results.set_exception(error)
