"""Ctrl-C and other signals to stop: between two records, never inside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from numclip_runtime.console import say
from numclip_runtime.signals import Stopped, signals_held, stop_signals


class Interrupt:
    """While open, hold a signal back during `held`; a second one always comes through.

    Otherwise the signal raises `Stopped` at once. See `stop_signals` for signals that are ignored
    or handled by others.
    """

    def __init__(self) -> None:
        self.came: Stopped | None = None  # the signal that ended a block
        self._handlers = ExitStack()

    @contextmanager
    def ends_block(self, note: str | None = None) -> Iterator[None]:
        """Let a signal end this block, and no more than it.

        Args:
            note: Printed to stderr if that happens.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            self.came = error if isinstance(error, Stopped) else Stopped()
            if note is not None:
                say(note)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay a signal to the end of this block."""
        with signals_held():
            yield

    def __enter__(self) -> Interrupt:
        self._handlers.enter_context(stop_signals())
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()
