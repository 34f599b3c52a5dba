"""Signals that ask a command to stop become one exception, raised where it does no harm."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from numclip_runtime.posix import CHILD_SIGNAL, STOP_SIGNALS, signal_main_thread

# Signals so close to each other are one request, Ctrl-C aside: `timeout` signals the process and
# its group, a closed terminal makes both the kernel and the shell send SIGHUP.
SAME_REQUEST_S = 0.2
AGAIN_S = 0.05  # until an exception that Python has ignored is raised once more
WORDS = {"SIGINT": "Interrupted", "SIGTERM": "Terminated", "SIGHUP": "Hung up"}


class Stopped(KeyboardInterrupt):
    """A signal asks to stop: handled wherever Ctrl-C is.

    Args:
        signum: The signal's number.
        note: What became of the work; may be empty.
    """

    def __init__(self, signum: int = signal.SIGINT, note: str = "") -> None:
        super().__init__(note)
        self.signum = int(signum)

    @property
    def exit_code(self) -> int:
        """The shells' exit code: 130, 143 or 129."""
        return 128 + self.signum

    @property
    def word(self) -> str:
        """The word for people: "Interrupted", "Terminated" or "Hung up"."""
        return WORDS[signal.Signals(self.signum).name]


class _Signals:
    """The handlers of this process, and what has come in since they were installed."""

    def __init__(self) -> None:
        self.before: dict[signal.Signals, Any] = {}  # handlers that ours replaced
        self.hook: Callable[[Any], object] = sys.unraisablehook  # that ours replaced
        self.process = 0
        self.reset()

    def reset(self) -> None:
        self.first: int | None = None  # the first signal that came
        self.requests = 0
        self.last_s = 0.0
        self.held = False
        self.pending: int | None = None
        self.lost = False  # the exception was ignored; the next signal raises it again
        self.take: Callable[[int], object] | None = None

    def handle(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked child has nothing of ours to keep
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
            return
        if self.lost:
            self.lost = False
            self._stop(signum)
            return
        now = time.monotonic()
        again = self.first is not None and signum != signal.SIGINT
        if again and now - self.last_s < SAME_REQUEST_S:
            return
        self.last_s = now
        self.requests += 1
        if self.first is None:
            self.first = signum
            if self.take is not None:
                self.take(signum)
                return
        self._stop(signum)

    def _stop(self, signum: int) -> None:
        if self.held and self.pending is None:
            self.pending = signum
            return
        raise Stopped(signum)

    def ignored(self, what: Any) -> None:
        """Handle an exception that Python ignores, such as one raised in `__del__`.

        Ours is raised again a moment later; raised here, it would be ignored again.
        """
        if not isinstance(what.exc_value, Stopped) or not self.before:
            self.hook(what)
            return
        timer = threading.Timer(AGAIN_S, self._again, (what.exc_value.signum,))
        timer.daemon = True
        timer.start()

    def _again(self, signum: int) -> None:
        if self.before:
            self.lost = True
            signal_main_thread(signum)


_signals = _Signals()


@contextmanager
def stop_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP raise `Stopped` in the main thread, while this is open.

    This holds for process 1 of a container as well, which ignores them by default. A signal that is
    ignored (`nohup`, a script's background job) or handled by others stays so; in another thread
    nothing happens. Inside another `stop_signals`, this does nothing.
    """
    if _signals.before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _signals.reset()
    _signals.process = os.getpid()
    try:
        for one in STOP_SIGNALS:
            if signal.getsignal(one) in (signal.SIG_DFL, signal.default_int_handler):
                _signals.before[one] = signal.signal(one, _signals.handle)
        _signals.hook, sys.unraisablehook = sys.unraisablehook, _signals.ignored
        yield
    finally:
        if sys.unraisablehook == _signals.ignored:
            sys.unraisablehook = _signals.hook
        for one in list(_signals.before):
            signal.signal(one, _signals.before.pop(one))


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay the exception to the end of this block; a second signal comes through at once.

    In another thread, in which signals raise nothing, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = _signals.held
    _signals.held = True
    try:
        yield
    finally:
        _signals.held = outer
    if not outer and _signals.pending is not None:
        signum, _signals.pending = _signals.pending, None
        raise Stopped(signum)


@contextmanager
def signals_released() -> Iterator[None]:
    """Let signals through in this block of a `signals_held`; one that waits raises at its start."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _signals.held = _signals.held, False
    try:
        if outer and _signals.pending is not None:
            signum, _signals.pending = _signals.pending, None
            raise Stopped(signum)
        yield
    finally:
        _signals.held = outer


@contextmanager
def signals_go_to(take: Callable[[int], object]) -> Iterator[None]:
    """Call `take` with the number of the first signal in place of raising inside this block.

    Outside `stop_signals`, in a program of the user's, this is about Ctrl-C alone.
    """
    if _signals.before:
        outer, _signals.take = _signals.take, take
        try:
            yield
        finally:
            _signals.take = outer
        return
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield
        return
    before = signal.signal(signal.SIGINT, lambda signum, _: take(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_child_deaths() -> None:
    """Handle SIGCHLD by nothing from here on, if a signal has asked to stop.

    The signal may have killed loading processes as well. torch's handler then raises an error
    wherever the main thread is, even at the end of the command, after its last sentence.
    """
    ours = threading.current_thread() is threading.main_thread()
    if _signals.first is None or CHILD_SIGNAL is None or not ours:
        return
    # SIG_DFL would make Python write to stderr if a SIGCHLD is just being delivered
    if callable(signal.getsignal(CHILD_SIGNAL)):
        signal.signal(CHILD_SIGNAL, _ignore)


def _ignore(signum: int, _: FrameType | None) -> None:
    """Do nothing."""


def stop_requests() -> tuple[int | None, int]:
    """Return the first signal since `stop_signals` was opened, and how many requests came."""
    return _signals.first, _signals.requests
