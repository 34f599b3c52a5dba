"""Objects that are fetched ahead of their decoding, in order, within a limit of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from queue import SimpleQueue
from typing import TypeVar

from numclip_runtime.errors import ImageError
from numclip_runtime.images.decode import ImageLike
from numclip_runtime.posix import check_room_for_thread
from numclip_runtime.remote.addresses import scheme_of
from numclip_runtime.remote.fetch import Watch, fetch, object_or_error
from numclip_runtime.remote.stores import CONNECTIONS, RemoteObject

_T = TypeVar("_T")

# Bytes that are fetched and not decoded; one object alone may have more. Assign to change it.
AHEAD_BYTES = 256 << 20
FETCHERS = CONNECTIONS  # threads: a store answers after 20 to 200 ms, and they only wait for it
AHEAD = 2 * FETCHERS  # objects


class _ClosedError(ImageError):
    """Nobody waits for the objects any more."""


class Fetched:
    """The content of an object, as a binary file: `read` waits until it has come.

    Args:
        wanted: The object, or the reason why there is none.
        keep: Whether it can be read twice; if not, the content is let go with the first time.
        budget: Of the bytes of all.
    """

    def __init__(self, wanted: RemoteObject | ImageError, keep: bool, budget: _Budget) -> None:
        self.name = wanted.path or "" if isinstance(wanted, ImageError) else wanted.name
        self._wanted, self._keep, self._budget = wanted, keep, budget
        self._content: bytes | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        if isinstance(wanted, ImageError):
            self._error = wanted
            self._done.set()
        else:
            budget.enter(self)

    def read(self, limit: int = -1, /) -> bytes:
        """Return the content, which is within the limit of a picture.

        Raises:
            ImageError: if this object cannot be read.
            StoreError: if no other object of its store could be, either.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        content = self._content
        assert content is not None, "read twice"
        if not self._keep:
            self._content = None
        self._budget.leave(self)
        return content

    @property
    def done(self) -> bool:
        """Whether the object was fetched, or cannot be."""
        return self._done.is_set()

    def wait(self) -> BaseException | None:
        """Wait until the object was fetched; return what `read` would raise."""
        while not self._done.wait(1.0):  # in steps, which Ctrl-C ends on Windows as well
            pass
        return self._error

    def run(self, watch: Watch) -> None:
        """Fetch the object; called by a thread."""
        budget = self._budget
        assert isinstance(self._wanted, RemoteObject)
        try:
            self._content = fetch(
                self._wanted,
                watch=watch,
                reserve=lambda size: budget.reserve(self, size),
                again=lambda: budget.restart(self),
                pause=budget.pause,
            )
        except BaseException as error:  # raised again where it is read
            self._error = error
            budget.leave(self)
        self._done.set()


class _Budget:
    """The bytes that objects hold from their fetching to their reading.

    The oldest object always gets what it needs: those behind it are waited for only after it.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._held: OrderedDict[int, int] = OrderedDict()  # identity of a Fetched -> bytes
        self._changed = threading.Condition()
        self._closed = threading.Event()

    def enter(self, one: Fetched) -> None:
        with self._changed:
            self._held[id(one)] = 0

    def reserve(self, one: Fetched, size: int) -> None:
        with self._changed:
            while not self._closed.is_set():
                oldest = next(iter(self._held), None) == id(one)
                if oldest or self._used + size <= self._limit:
                    self._used += size
                    self._held[id(one)] += size
                    return
                self._changed.wait()
        raise _ClosedError("closed")

    def restart(self, one: Fetched) -> None:
        with self._changed:
            self._used -= self._held[id(one)]
            self._held[id(one)] = 0
            self._changed.notify_all()

    def leave(self, one: Fetched) -> None:
        with self._changed:
            self._used -= self._held.pop(id(one), 0)
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _ClosedError("closed")

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify_all()


class Prefetcher:
    """Threads that fetch objects ahead of their use; `close` it.

    Args:
        keep: See `Fetched`.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._budget, self._watch = _Budget(AHEAD_BYTES), Watch()
        self._queue: SimpleQueue[Fetched | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def fetch(self, wanted: RemoteObject | ImageError) -> Fetched:
        """Have an object fetched; those that were asked for first come first."""
        one = Fetched(wanted, self._keep, self._budget)
        if not isinstance(wanted, ImageError):
            if len(self._threads) < FETCHERS:
                check_room_for_thread()
                # Daemons: one that waits for a server keeps no process alive
                thread = threading.Thread(target=self._work, name="numclip-fetcher", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._queue.put(one)
        return one

    def ahead(
        self, items: Iterable[_T], wanted: Callable[[_T], RemoteObject | ImageError | None]
    ) -> Generator[tuple[_T, Fetched | None], None, None]:
        """Yield items in order, each remote one with its object, which has come.

        Up to `AHEAD` items are taken from the source ahead; none while nothing is fetched, so a
        source of local items is not read ahead.

        Args:
            items: The source.
            wanted: Returns the object of an item; None: it is not remote.

        Raises:
            StoreError: where a store can be read no longer; the items before have been yielded.
        """
        waiting: deque[tuple[_T, Fetched | None]] = deque()
        for item in items:
            place = wanted(item)
            waiting.append((item, None if place is None else self.fetch(place)))
            while waiting and (len(waiting) >= AHEAD or waiting[0][1] is None):
                yield _arrived(*waiting.popleft())
            # One for one, so that those ahead stay as many; they grow in number while the first one
            # is waited for
            if waiting and (first := waiting[0][1]) is not None and first.done:
                yield _arrived(*waiting.popleft())
        while waiting:
            yield _arrived(*waiting.popleft())

    def finish(self) -> None:
        """End the threads once all objects have been fetched."""
        for _ in self._threads:
            self._queue.put(None)

    def close(self) -> None:
        """End the threads; what they are at is not waited for."""
        self._budget.close()
        self.finish()

    def _work(self) -> None:
        while (one := self._queue.get()) is not None:
            one.run(self._watch)


def _arrived(item: _T, fetched: Fetched | None) -> tuple[_T, Fetched | None]:
    if fetched is not None:
        error = fetched.wait()
        if error is not None and not isinstance(error, ImageError):
            raise error
    return item, fetched


def prefetched(
    images: Iterable[ImageLike | ImageError],
) -> Generator[ImageLike | ImageError, None, None]:
    """Fetch the addresses among images ahead: `model.stream(prefetched(addresses))`.

    Args:
        images: As for `Predictor.stream`; up to `AHEAD` are taken ahead.

    Yields:
        The images in order, with the content of objects in place of addresses.

    Raises:
        StoreError: if a store can be read no longer.
        MissingDependencyError: if a package is missing.
    """
    with closing(Prefetcher()) as prefetcher:
        for image, fetched in prefetcher.ahead(images, _wanted):
            yield image if fetched is None else fetched


def _wanted(image: ImageLike | ImageError) -> RemoteObject | ImageError | None:
    if not isinstance(image, str) or scheme_of(image) is None:
        return None
    return object_or_error(image)
