"""The run folder of `numclip-train` and its files of an unfinished run; needs no torch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numclip_runtime import UsageError
from numclip_runtime.files import atomic_text
from numclip_runtime.signals import Stopped, ignore_child_deaths, stop_requests

RESUME_FILE = "last.ckpt"  # weights, optimizer, schedule, epoch
BEST_FILE = "best.ckpt"  # weights of the best validation MAE
RUN_FILE = "run.toml"  # `numclip-train --config` repeats the run by it


def unfinished(run_dir: Path) -> bool:
    """Return whether a folder holds an interrupted run."""
    return (run_dir / RESUME_FILE).is_file()


def what_is_kept(run_dir: Path) -> str:
    """Return what a stopped run has left, for people."""
    if unfinished(run_dir):
        return f"the finished epochs are kept in {run_dir}; go on with --resume"
    return "no epoch was finished, nothing is kept"


@contextmanager
def stopping_kept(run_dir: Path, *, speaks: bool = True) -> Iterator[None]:
    """Say what a run keeps that is stopped inside.

    Args:
        run_dir: Its folder.
        speaks: False in all processes but the first.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        ignore_child_deaths()
        # under torchrun, the other process may end first, and its loss come as any error
        signum = stop_requests()[0] or (isinstance(error, KeyboardInterrupt) and signal.SIGINT)
        if not signum:
            raise
        raise Stopped(signum, what_is_kept(run_dir) if speaks else "") from None


def finish(run_dir: Path) -> None:
    """Delete the resume files, once the checkpoint is written; logs stay."""
    for name in (RESUME_FILE, BEST_FILE):
        (run_dir / name).unlink(missing_ok=True)


def check_run_folder(run_dir: Path, *, resume: bool, restart: bool) -> None:
    """Refuse to overwrite an unfinished run by accident, or to resume a missing one.

    Raises:
        UsageError: naming the flag to give.
    """
    if resume and restart:
        raise UsageError("--resume goes on and --restart begins anew: give one of them.")
    if resume and not unfinished(run_dir):
        raise UsageError(f"{run_dir}: holds no unfinished run; start without --resume.")
    if unfinished(run_dir) and not resume and not restart:
        raise UsageError(
            f"{run_dir}: holds an unfinished run; go on with --resume, or discard it with "
            "--restart."
        )


def save_run_file(run_dir: Path, text: str) -> None:
    """Write the options of a run into its folder; "" writes nothing."""
    if text:
        run_dir.mkdir(parents=True, exist_ok=True)
        with atomic_text(run_dir / RUN_FILE) as file:
            file.write(text)
