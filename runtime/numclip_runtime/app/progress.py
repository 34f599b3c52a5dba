"""What a run says of itself: what runs the model, the progress, the speed at the end."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from numclip_runtime.pipeline import StreamPlan
    from numclip_runtime.predictor import Predictor

INTERVAL_S = 0.1  # between two updates of the line


class Progress:
    """Show count, share, images per second and time left; clear the line at the end.

    Args:
        file: Terminal to write to; None: show nothing.
        total: Number of images; None: not known.
    """

    def __init__(self, file: IO[str] | None, total: int | None) -> None:
        self._file = file
        self._total = total
        self._start = self._shown = time.monotonic()
        self._width = 0  # of the line on the screen

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._start

    def update(self, done: int, before: int = 0) -> None:
        """Show the number of finished images: of this run, and of runs before."""
        now = time.monotonic()
        if self._file is not None and now - self._shown >= INTERVAL_S:
            self._shown = now
            self._draw(line(done, self._total, now - self._start, before))

    def clear(self) -> None:
        """Remove the line from the screen."""
        if self._width:
            self._draw("")

    def _draw(self, text: str) -> None:
        assert self._file is not None
        text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line cannot be replaced
        self._file.write(f"\r{text:<{self._width}}" + ("" if text else "\r"))
        self._file.flush()
        self._width = len(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def line(done: int, total: int | None, seconds: float, before: int = 0) -> str:
    """Return "120 of 600 images  20%  24.0/s  0:00:20 left", without unknown parts."""
    rate = done / seconds if seconds > 0 else 0.0
    done += before
    if total is None:
        return f"{done} images  {rate:.1f}/s"
    left = "" if rate == 0 else f"  {_clock((total - done) / rate)} left"
    return f"{done} of {total} images  {done / max(total, 1):.0%}  {rate:.1f}/s{left}"


def summary(done: int, seconds: float) -> str:
    """Return "600 images in 25.0 s, 24.0 images/s"."""
    images = "1 image" if done == 1 else f"{done} images"
    return f"{images} in {seconds:.1f} s, {done / max(seconds, 1e-9):.1f} images/s"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def progress_file(output: Path | None) -> IO[str] | None:
    """Return stderr if it is a terminal that shows nothing else."""
    own = output is not None or not sys.stdout.isatty()
    return sys.stderr if own and sys.stderr.isatty() else None


def chosen(predictor: Predictor, plan: StreamPlan) -> str:
    """Return one line that describes what runs the model, and how."""
    backend = predictor.backend
    runs = f"{_count(plan.lanes, 'inference')} at a time"
    if backend.device == "cpu":
        runs += f" of {_count(backend.threads, 'thread') if backend.threads else 'all cores'}"
    return (
        f"{backend.name}: {backend.provider} on {backend.device}, {backend.precision}, "
        f"batch {plan.batch_size}, {runs}, {_count(plan.workers, 'worker')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
