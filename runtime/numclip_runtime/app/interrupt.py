"""Ctrl-C between two records, never inside one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Interrupt:
    """While open, hold a Ctrl-C back during `held`; a second one always comes through.

    Elsewhere Ctrl-C raises KeyboardInterrupt at once, as usual. Does nothing where Ctrl-C is
    ignored or somebody else's (a script's background job, a notebook, another thread).
    """

    def __init__(self) -> None:
        self.pending = False
        self._held = False
        self._installed = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay a Ctrl-C to the end of this block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._held and not self.pending:
            self.pending = True
        else:
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupt:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, self._handle)
                self._installed = True
            except ValueError:  # only the main thread may
                pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
