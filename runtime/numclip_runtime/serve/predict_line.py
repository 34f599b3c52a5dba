"""The line of pictures that wait for a model, and the threads that serve it.

On a CPU each worker decodes a picture and runs the network on it. Otherwise workers decode, and
lanes run what has been decoded meanwhile, up to a batch: nobody waits for a batch to fill, and
while all lanes are at work it fills by itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from numclip_runtime.errors import ImageError, NumclipError, causes
from numclip_runtime.monitor.reference import MonitorReference
from numclip_runtime.pipeline import StreamPlan
from numclip_runtime.predictor import Predictor
from numclip_runtime.preprocess import InputArray
from numclip_runtime.results.prediction import Prediction, finite
from numclip_runtime.serve.pace import Pace

LEAST_SERVICE_S = 0.1  # is added to the time that a picture may wait, at least: threads have jitter


class LateError(NumclipError):
    """A picture's turn came too late."""


@dataclass(frozen=True)
class Upload:
    """A picture that a client sent; decoded as an open file with a name."""

    path: str  # as the client named it; may be empty
    content: bytes

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.path or "image"

    def read(self, limit: int, /) -> bytes:
        """Return the content."""
        return self.content[:limit]


class Observer(Protocol):
    """Is told what the threads do; several call it at a time."""

    def decoded(self, seconds: float) -> None:
        """Note a decoded picture."""

    def ran(self, seconds: float, images: int) -> None:
        """Note a run of the network."""

    def picture(self, outcome: str) -> None:
        """Note the end of one: "predicted", "failed" or "dropped"."""


class Job:
    """The pictures of one request, which share its fate.

    Args:
        uploads: At least one.
        wait_s: Seconds after which the first picture's turn is too late.
        finished: Called once, by any thread, when there are results or a fault.
    """

    def __init__(
        self, uploads: Sequence[Upload], *, wait_s: float, finished: Callable[[], object]
    ) -> None:
        self.uploads = uploads
        self.results: list[Prediction | ImageError | None] = [None] * len(uploads)
        self.fault: Exception | None = None  # why there are no results
        self.deadline = time.monotonic() + wait_s
        self.begun = self.over = False
        self.left = len(uploads)
        self.finished = finished


@dataclass(frozen=True)
class _Picture:
    job: Job
    index: int


class PredictLine:
    """A model with its threads. It owns the predictor.

    Args:
        predictor: An open model.
        plan: Threads and batches.
        observer: Is told what the threads do.
        name: Of the model file.
        digest: Its SHA-256.
        content: SHA-256 of what was given: the file, or the manifest of a bundle.
        reference: That a monitor compares the pictures with; None: there is to be no monitor.
    """

    def __init__(
        self,
        predictor: Predictor,
        plan: StreamPlan,
        observer: Observer,
        *,
        name: str = "",
        digest: str = "",
        content: str = "",
        reference: MonitorReference | None = None,
    ) -> None:
        self.predictor, self.plan, self.name, self.digest = predictor, plan, name, digest
        self.content, self.reference = content or digest, reference
        self.pace = Pace(plan)
        self.monitor: Callable[[Prediction], None] | None = None  # is given each prediction
        self.running = 0  # pictures that threads work on
        self.fault = ""  # of the last run of the network; empty: it worked
        self.observer = observer
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)  # a picture, or room for its input
        self._decoded = threading.Condition(self._lock)
        self._queue: deque[_Picture] = deque()
        self._inputs: deque[tuple[_Picture, InputArray]] = deque()
        self._room = 2 * plan.lanes * plan.batch_size  # of inputs that wait
        self._closing = self._last = False
        self._turn = threading.Semaphore(plan.lanes)
        self._workers = self._started(plan.workers, self._work, "numclip-worker")
        lanes = 0 if plan.whole else plan.lanes
        self._lanes = self._started(lanes, self._lane, "numclip-lane")

    def _started(self, count: int, target: Callable[[], None], name: str) -> list[threading.Thread]:
        threads = [threading.Thread(target=target, name=name, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    @property
    def waiting(self) -> int:
        """Pictures whose turn has not come."""
        return len(self._queue)

    @property
    def wait_s(self) -> float:
        """Seconds until a picture that comes now has its turn, as things go."""
        return self.waiting / self.pace.rate

    def longest(self, max_wait: float) -> float:
        """Return the seconds after which a turn is too late: the wait, and the work on one."""
        return max_wait + max(self.pace.service_s, LEAST_SERVICE_S)

    def add(self, job: Job) -> None:
        """Let a job wait for its turn."""
        with self._lock:
            assert not self._closing
            self._queue.extend(_Picture(job, index) for index in range(len(job.uploads)))
            self._came.notify(len(job.uploads))

    def drop(self, job: Job) -> None:
        """Take a job out, because nobody waits for it; what is being worked on ends."""
        with self._lock:
            if not job.over:
                self._end(job)

    def close(self) -> None:
        """Finish what waits, end the threads, and close the model; idempotent."""
        with self._lock:
            self._closing = True
            self._came.notify_all()
        for thread in self._workers:
            thread.join()
        with self._lock:
            self._last = True
            self._decoded.notify_all()
        for thread in self._lanes:
            thread.join()
        self.predictor.close()

    def _end(self, job: Job) -> None:
        """Let a job be over, with the lock held."""
        job.over = True
        before = len(self._queue)
        self._queue = deque(picture for picture in self._queue if picture.job is not job)
        for _ in range(before - len(self._queue)):
            self.observer.picture("dropped")

    def _work(self) -> None:
        while (picture := self._next()) is not None:
            self._decode(picture)
            del picture  # it would stay in memory until the next one comes

    def _next(self) -> _Picture | None:
        """Wait for a picture whose turn is in time; None: there will be none."""
        with self._lock:
            while True:
                while not self._queue or len(self._inputs) >= self._room:
                    if self._closing and not self._queue:
                        return None
                    self._came.wait()
                job = self._queue[0].job
                if not job.begun and time.monotonic() > job.deadline:
                    job.fault = LateError("the server is slower than it was; try again later.")
                    self._end(job)
                    job.finished()
                    continue
                job.begun = True
                self.running += 1
                return self._queue.popleft()

    def _decode(self, picture: _Picture) -> None:
        began = time.perf_counter()
        try:
            one = self.predictor.preprocess(picture.job.uploads[picture.index])
        except ImageError as error:
            # Tracebacks lead to this job, whose result the error is: the picture would stay in
            # memory until Python looks for such circles, 0.7 MB for each broken one of 0.1 MB
            for cause in causes(error):
                cause.__traceback__ = None
            self._settle(picture, error)
            return
        except Exception as error:
            self._fail([picture], error)
            return
        seconds = time.perf_counter() - began
        self.pace.decoded(seconds)
        self.observer.decoded(seconds)
        if self.plan.whole:
            with self._turn:
                self._run([(picture, one)])
            return
        with self._lock:
            self._inputs.append((picture, one))
            self._decoded.notify()

    def _lane(self) -> None:
        while batch := self._batch():
            self._run(batch)
            del batch

    def _batch(self) -> list[tuple[_Picture, InputArray]]:
        with self._lock:
            while not self._inputs:
                if self._last:
                    return []
                self._decoded.wait()
            count = min(len(self._inputs), self.plan.batch_size)
            self._came.notify(count)
            return [self._inputs.popleft() for _ in range(count)]

    def _run(self, batch: list[tuple[_Picture, InputArray]]) -> None:
        began = time.perf_counter()
        try:
            inputs = [one for _, one in batch]
            found = self.predictor.predict_inputs(
                inputs[0][None] if len(batch) == 1 else np.stack(inputs)
            )
        except Exception as error:
            self._fail([picture for picture, _ in batch], error)
            return
        seconds = time.perf_counter() - began
        self.fault = ""
        self.pace.ran(seconds, len(batch))
        self.observer.ran(seconds, len(batch))
        for (picture, _), prediction in zip(batch, found, strict=True):
            result = finite(picture.job.uploads[picture.index].name, prediction)
            self._settle(picture, result)
            if self.monitor is not None and isinstance(result, Prediction):
                self.monitor(result)

    def _settle(self, picture: _Picture, result: Prediction | ImageError) -> None:
        self.observer.picture("failed" if isinstance(result, ImageError) else "predicted")
        job = picture.job
        with self._lock:
            self.running -= 1
            job.results[picture.index] = result
            job.left -= 1
            if job.left == 0 and not job.over:
                job.over = True
                job.finished()

    def _fail(self, pictures: Sequence[_Picture], error: Exception) -> None:
        with self._lock:
            self.running -= len(pictures)
            self.fault = f"{error}"
            for job in {id(picture.job): picture.job for picture in pictures}.values():
                if not job.over:
                    job.fault = error
                    self._end(job)
                    job.finished()
        for _ in pictures:
            self.observer.picture("dropped")
