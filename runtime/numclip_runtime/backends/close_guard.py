"""Closing a model that other threads may still use."""

from __future__ import annotations

import threading
from collections.abc import Callable

from numclip_runtime.errors import UsageError


class CloseGuard:
    """A reader-writer lock: any number of threads are inside until it is closed, and none after.

    Freeing a model under a running inference would crash the process, or leave its memory in use
    after `close` has returned.

    Args:
        message: Of the UsageError that is raised on entering after `close`.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._free: Callable[[], None] | None = None  # set once it is closed
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked process, which has none of the threads inside, nor their locks."""
        # Re-entrant: a signal handler may call `close` while its thread holds it
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside: list[int] = []  # identifiers of threads

    def close(self, free: Callable[[], None]) -> None:
        """Admit no more threads, wait for those inside, then free; idempotent if `free` is.

        Called by a thread that is inside, as by a signal handler that interrupts a run, it returns
        at once; the last thread that leaves then frees.

        Args:
            free: Frees the guarded object.
        """
        with self._lock:
            self._free = free
            if threading.get_ident() not in self._inside:
                self._changed.wait_for(lambda: not self._inside)
                free()

    def __enter__(self) -> None:
        with self._lock:
            self._inside.append(threading.get_ident())  # first: a signal handler may close now
            if self._free is not None:
                self._leave()
                raise UsageError(self._message)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        self._inside.remove(threading.get_ident())
        if not self._inside and self._free is not None:
            self._changed.notify_all()
            self._free()
