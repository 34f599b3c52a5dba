"""Ctrl-C between two records, never inside one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click


class Interrupt:
    """While open, hold a Ctrl-C back during `held`; a second one always comes through.

    Otherwise Ctrl-C raises KeyboardInterrupt at once, as usual. Does nothing if Ctrl-C is ignored
    or handled by others (a script's background job, a notebook, another thread).
    """

    def __init__(self) -> None:
        self.came = False  # whether a Ctrl-C ended a block
        self.pending = False
        self._held = False
        self._installed = False

    @contextmanager
    def ends_block(self, message: str | None = None) -> Iterator[None]:
        """Let a Ctrl-C end this block, and no more than it.

        Args:
            message: Printed to stderr if that happens.
        """
        try:
            yield
        except KeyboardInterrupt:
            self.came = True
            if message is not None:
                click.echo(message, err=True)

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

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
