"""A source that comes in its own time: a list that still grows, a camera."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Feed(Generic[T]):
    """Read a slow source in a thread, so that one can take what is there without waiting for more.

    A pipeline that decodes ahead would hold back finished results until the source gives its next
    item. It gets bursts instead: each ends where the source makes it wait, and so is finished.

    Args:
        source: Read by the thread alone, `capacity` items ahead at most.
        capacity: Items that wait at most.
        newest_only: Drop the oldest waiting item where the reader is slower than the source, as a
            camera needs; otherwise the source waits.
    """

    def __init__(
        self, source: Iterable[T], *, capacity: int = 256, newest_only: bool = False
    ) -> None:
        self._queue: Queue[T | _End] = Queue(capacity)
        self._newest_only = newest_only
        self._stopped = threading.Event()
        self._ended = False
        # A daemon: waiting for input that never comes must not keep the process alive
        self._thread = threading.Thread(
            target=self._read, args=(source,), name="numclip-feed", daemon=True
        )
        self._thread.start()

    def bursts(self) -> Iterator[Iterator[T]]:
        """Yield iterators over what is there; wait for the source only between them.

        Raises:
            Whatever the source raised, once what came before has been taken.
        """
        while not self._ended:
            item = self._queue.get()
            if not self._is_end(item):
                yield self._burst(item)

    def close(self) -> None:
        """Stop the thread, if the source gives it a chance to."""
        self._stopped.set()
        self._drain()
        self._thread.join(timeout=0.2)

    def _burst(self, item: T | _End) -> Iterator[T]:
        while not self._is_end(item):
            assert not isinstance(item, _End)
            yield item
            try:
                item = self._queue.get_nowait()
            except Empty:
                return

    def _is_end(self, item: T | _End) -> bool:
        if not isinstance(item, _End):
            return False
        self._ended = True
        if item.error is not None:
            raise item.error
        return True

    def _read(self, source: Iterable[T]) -> None:
        error: BaseException | None = None
        try:
            for item in source:
                if self._newest_only and self._queue.full():
                    self._drain()
                self._put(item)
                if self._stopped.is_set():
                    break
        except BaseException as caught:  # raised again where the items are taken
            error = caught
        self._put(_End(error))

    def _put(self, item: T | _End) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except Full:
                continue

    def _drain(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            pass
