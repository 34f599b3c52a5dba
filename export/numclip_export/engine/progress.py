"""Watch a build, show how far it is, and stop it when the user asks for that."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any

import click

from numclip_runtime.signals import Stopped, signals_go_to


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class BuildProgress:
    """The running phases of a build, and whether it was cancelled."""

    cancelled: bool = False
    signum: int = signal.SIGINT  # that cancelled it
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)  # TensorRT may report from several threads

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase of so many steps, inside a step of its parent."""
        with self._lock:
            self._phases[phase] = _Phase(parent, max(steps, 1))

    def step(self, phase: str) -> bool:
        """Count one finished step; return whether the build goes on."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done += 1
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """End a phase."""
        with self._lock:
            self._phases.pop(phase, None)

    def check(self) -> None:
        """Raise `Stopped`, a KeyboardInterrupt, if the user asked to stop."""
        if self.cancelled:
            raise Stopped(self.signum, "no engine was written")

    @property
    def fraction(self) -> float:
        """Finished share of the outermost phase, 0 to 1."""
        with self._lock:
            return max((self._done(n) for n, p in self._phases.items() if not p.parent), default=0)

    def _done(self, name: str) -> float:
        phase = self._phases[name]
        inside = (self._done(n) for n, p in self._phases.items() if p.parent == name)
        return min((phase.done + max(inside, default=0.0)) / phase.steps, 1.0)


def progress_monitor(trt: Any, progress: BuildProgress) -> Any:
    """Return a TensorRT progress monitor that reports to `progress` and stops when it does."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


@contextmanager
def interrupt_cancels(progress: BuildProgress) -> Iterator[None]:
    """Let the first Ctrl-C or other signal to stop only set `progress.cancelled` inside the block.

    A KeyboardInterrupt that Python raises inside a callback, or while TensorRT is being imported,
    crashes the process or turns into another error. Raise it where that is safe.
    """

    def cancel(signum: int) -> None:
        progress.cancelled, progress.signum = True, signum

    with signals_go_to(cancel):
        yield


def build_watched(
    builder: Any, network: Any, config: Any, progress: BuildProgress, label: str
) -> Any:
    """Run `builder.build_serialized_network` with a progress bar where stderr is a terminal.

    It runs in a thread, because Python handles Ctrl-C in the main thread only, and not while that
    thread is inside TensorRT.

    Returns:
        The plan in memory, or None where the build failed or was cancelled.
    """
    done: Future[Any] = Future()

    def build() -> None:
        try:
            done.set_result(builder.build_serialized_network(network, config))
        except Exception as error:
            done.set_exception(error)

    thread = Thread(target=build, name="tensorrt-build")
    # not `hidden=`, which click 8.1 lacks
    with click.progressbar(
        length=1000,
        label=label,
        file=sys.stderr if sys.stderr.isatty() else io.StringIO(),
        show_eta=False,
    ) as bar:
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            bar.update(max(int(1000 * progress.fraction) - bar.pos, 0))
        bar.update(1000 - bar.pos)
    return done.result()
