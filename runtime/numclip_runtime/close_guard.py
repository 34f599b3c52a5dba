"""Work that must not outlive what it works on."""

from __future__ import annotations

import threading
from types import TracebackType

from numclip_runtime.errors import UsageError


class Gate:
    """Lets any number of threads in until it is closed; closing waits for those inside.

    Freeing a model under a running inference would crash the process, or leave its memory taken
    after `close` has returned.

    Args:
        closed: What who comes too late is told.
    """

    def __init__(self, closed: str) -> None:
        self._message = closed
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more, and wait until all are out; a second time is fine."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._inside == 0)

    def __enter__(self) -> None:
        with self._changed:
            if self._closed:
                raise UsageError(self._message)
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if self._inside == 0:
                self._changed.notify_all()
