"""Runs of a plan, several at a time: lanes are handed out to the threads that call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from numclip_runtime.backends.tensorrt.engine import LoadedPlan
from numclip_runtime.backends.tensorrt.lane import Lane
from numclip_runtime.cuda import CudaContext
from numclip_runtime.cuda.probe import LIBRARY
from numclip_runtime.errors import GpuError
from numclip_runtime.plan import PlanInfo
from numclip_runtime.preprocess import FloatArray, InputArray


class TensorRTRunner:
    """Runs batches of a plan; see `TensorRTBackend`, which checks the plan.

    While one lane computes, the next uploads and the one before downloads: a GPU has an engine for
    each of the three. The first lane is made on opening, each other one when a run finds all lanes
    taken; so who calls from one thread has one. A thread that finds no lane waits.

    It owns all that it makes on the GPU, and frees it on `close`.

    Args:
        trt: The TensorRT package.
        plan: The serialised engine.
        info: What the plan says about itself.
        source: File named in errors.
        library: The driver's library.
        lanes: How many at most, at least 1.

    Raises:
        ModelError: if TensorRT refuses the plan, or it is not what its metadata say.
        CudaError: if the driver fails, such as when memory runs out.
    """

    def __init__(
        self,
        trt: Any,
        plan: bytes,
        info: PlanInfo,
        source: str,
        library: str = LIBRARY,
        *,
        lanes: int = 1,
    ) -> None:
        assert lanes >= 1, lanes
        self._most = lanes
        self._lanes: list[Lane] = []  # the first that is free is taken: its graphs are there
        self._taken: dict[int, Lane | None] = {}  # by thread; None: it is being made
        self._closed = False
        self._changed = threading.Condition()  # guards the four above
        self._opened = ExitStack()  # closes in reverse: lanes, plan, CUDA
        try:
            self._cuda = CudaContext(library=library)
            self._opened.callback(self._cuda.close)
            with self._cuda.current():
                self.loaded = LoadedPlan(self._cuda, trt, plan, info, source)
            self._opened.callback(self._forget_plan)
            self._lanes.append(self._new_lane())
        except BaseException:
            self._opened.close()
            raise

    def run(self, images: InputArray | Sequence[InputArray]) -> tuple[FloatArray, FloatArray]:
        """Run one batch in a free lane; see `Lane.run`.

        Raises:
            GpuError: if TensorRT or the driver fails, or after `close`.
        """
        try:
            return self._take().run(images)
        finally:
            with self._changed:
                self._taken.pop(threading.get_ident(), None)
                if self._closed and not self._taken:
                    self._opened.close()
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the runs that are under way, then free all on the GPU; a second time is fine.

        From a signal handler that interrupts a run it returns at once, and the run's end frees all.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()  # who waits for a lane gets none any more
            if threading.get_ident() in self._taken:
                return
            while self._taken:
                self._changed.wait()
            self._opened.close()

    def _take(self) -> Lane:
        """Return a lane that is this thread's until it leaves `_taken`."""
        me = threading.get_ident()
        while True:
            with self._changed:
                lane = self._free_or_none(me)
                self._taken[me] = lane
            if lane is not None:
                return lane
            try:
                lane = self._new_lane()  # takes a while, so not under the condition
            except GpuError as error:
                self._go_on_without(me, error)
            else:
                with self._changed:
                    self._taken[me] = lane
                    self._lanes.append(lane)
                return lane

    def _free_or_none(self, me: int) -> Lane | None:
        """Wait for a free lane; return None where one more may be made."""
        while True:
            if self._closed:
                raise GpuError(f"{self.loaded.source}: was closed.")
            taken = self._taken.values()
            # A Ctrl-C in a run's `finally` leaves it with its thread
            if (lost := self._taken.get(me)) is not None:
                return lost
            free = next((lane for lane in self._lanes if lane not in taken), None)
            if free is not None or len(self._lanes) + list(taken).count(None) < self._most:
                return free
            self._changed.wait()

    def _go_on_without(self, me: int, error: GpuError) -> None:
        with self._changed:
            del self._taken[me]
            self._most = len(self._lanes) + list(self._taken.values()).count(None)
            self._changed.notify_all()
            one = self._most == 1
            noun, so = ("batch", ", so none overlap") if one else ("batches", "")
            self.loaded.notes.append(
                f"{self.loaded.source}: at most {self._most} {noun} at a time{so}: {error}"
            )

    def _new_lane(self) -> Lane:
        with self.loaded.lock, self._cuda.current():
            lane = Lane(self.loaded)
        self._opened.callback(lane.close)
        return lane

    def _forget_plan(self) -> None:
        with self._cuda.current():
            self.loaded.close()
