"""Runs of an engine, several at a time: lanes are handed out to the threads that call."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

from numclip_runtime.backends.tensorrt_engine import Engine
from numclip_runtime.backends.tensorrt_lane import Lane
from numclip_runtime.cuda import CudaContext
from numclip_runtime.cuda_probe import LIBRARY
from numclip_runtime.errors import GpuError
from numclip_runtime.plan import PlanInfo
from numclip_runtime.preprocess import FloatArray, InputArray


class TensorRTRunner:
    """Runs batches of an engine; see `TensorRTBackend`, which checks the plan.

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
        self._made = 0  # lanes, with those that are being made
        self._free: list[Lane] = []  # the last used on top: its caches are warm, its graphs there
        self._changed = threading.Condition()  # guards these three and `_closed`
        self._closed = False
        self._opened = ExitStack()  # closes in reverse: lanes, engine, CUDA
        try:
            self._cuda = CudaContext(library=library)
            self._opened.callback(self._cuda.close)
            with self._cuda.current():
                self.engine = Engine(self._cuda, trt, plan, info, source)
            self._opened.callback(self._forget_engine)
            self._made = 1
            self._free.append(self._new_lane())
        except BaseException:
            self._opened.close()
            raise

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run one batch in a free lane; see `Lane.run`.

        Raises:
            GpuError: if TensorRT or the driver fails, or after `close`.
        """
        lane = self._take()
        try:
            return lane.run(images)
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the runs that are under way, then free all on the GPU; a second time is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()  # who waits for a lane gets none any more
            while len(self._free) < self._made:
                self._changed.wait()
            self._opened.close()

    def _take(self) -> Lane:
        while True:
            with self._changed:
                while True:
                    if self._closed:
                        raise GpuError(f"{self.engine.source}: was closed.")
                    if self._free:
                        return self._free.pop()
                    if self._made < self._most:
                        break
                    self._changed.wait()
                self._made += 1
            try:
                return self._new_lane()  # takes a while, so not under the condition
            except BaseException as error:
                with self._changed:
                    self._made -= 1
                    self._most = self._made
                    self._changed.notify_all()
                if not isinstance(error, GpuError):
                    raise
                one = self._most == 1
                noun, so = ("batch", ", so none overlap") if one else ("batches", "")
                self.engine.notes.append(
                    f"{self.engine.source}: at most {self._most} {noun} at a time{so}: {error}"
                )

    def _new_lane(self) -> Lane:
        with self.engine.lock, self._cuda.current():
            lane = Lane(self.engine)
        self._opened.callback(lane.close)
        return lane

    def _forget_engine(self) -> None:
        with self._cuda.current():
            self.engine.close()
