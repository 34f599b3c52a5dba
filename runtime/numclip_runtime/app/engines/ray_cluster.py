"""The cluster of `--engine ray`, on this machine or elsewhere, and its room for actors."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numclip_runtime.backends import OpenOptions
from numclip_runtime.errors import NumclipError, UsageError, first_line, import_extra
from numclip_runtime.model_files.open_model import is_plan
from numclip_runtime.posix import STOP_SIGNALS
from numclip_runtime.system import usable_cores

ANSWER_S = 3.0
# Paths and records are small; Ray would take 30 % of the memory
STORE_BYTES = 256 << 20
LONGEST_FOLDER = 30  # characters; Ray adds 70, and a socket's name has at most 107


@dataclass(frozen=True)
class Needs:
    """The share of a cluster that one actor takes."""

    cpus: int = 1
    gpus: int = 0

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")

    @classmethod
    def of(cls, model: Path, opening: OpenOptions) -> Needs:
        """Return what a model needs: a GPU only where one is asked for, as by a plan."""
        gpu = (
            is_plan(model)
            or opening.device == "cuda"
            or opening.require_gpu
            or (opening.backend or "").startswith("onnxruntime-")
        )
        return cls(opening.threads or 1, int(gpu))


def room_for_actors(
    have: Mapping[str, float], free: Mapping[str, float], needs: Needs, wanted: int | None
) -> int:
    """Return how many actors can run at once; waiting for more would be waiting for ever.

    Args:
        have: All that the cluster has: "CPU" and "GPU" -> number.
        free: The part that no other job uses.
        needs: Of an actor.
        wanted: At most so many; None: as many as there is room for.

    Raises:
        UsageError: if there is no room for one; it says what is missing.
    """
    room = wanted
    for kind, each in (("CPU", needs.cpus), ("GPU", needs.gpus)):
        if not each:
            continue
        total, left = int(have.get(kind, 0)), int(free.get(kind, 0))
        if left < each:
            used = f", and {total - left} of them are used by other jobs" if total >= each else ""
            raise UsageError(
                f"Ray: an actor needs {each} {kind}, and the cluster has {total}{used}; add "
                "machines, wait for the other jobs, or leave --engine ray out."
            )
        room = left // each if room is None else min(room, left // each)
    assert room is not None
    return room


@contextmanager
def connected(address: str | None, needs: Needs, wanted: int | None) -> Iterator[Any]:
    """Yield the module `ray` with a cluster, which ends with this if it was begun here.

    Args:
        address: Of a cluster; None: one of this machine.
        needs: Of an actor.
        wanted: Actors, if given; a cluster of this machine has room for them.

    Raises:
        UsageError: if no cluster answers there.
        MissingDependencyError: if Ray is not installed.
    """
    # Ray reports its use to its maker unless told not to. Both are read on import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else 2 lines of errors that are none
    ray = import_extra("ray", "ray")
    import_extra("ray", "ray.data")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    folder = None
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        _check_address(address)
        options["address"] = address
    else:
        folder = _short_folder()
        options |= {
            "address": "local",  # not one whose address a killed run left behind
            "num_cpus": max(usable_cores(), (wanted or 1) * needs.cpus),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": folder,
        }
    try:
        try:
            with _handlers_kept():
                ray.init(**options)
        except Exception as error:  # of any class, as when a machine is too busy to start
            place = "a cluster of this machine cannot start" if address is None else address
            raise UsageError(f"Ray: {place} ({first_line(error)}); try again.") from None
        yield ray
    finally:
        with suppress(Exception):  # it may have failed already
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Install the handlers of signals again: Ray's own for SIGTERM aborts the process."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


def _short_folder() -> str | None:
    if len(tempfile.gettempdir()) > LONGEST_FOLDER:
        return None
    return tempfile.mkdtemp(prefix="numclip-ray-")


def _check_address(address: str) -> None:
    """Refuse an address at which nothing listens: Ray would try for a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--ray-address {address}: no cluster answers there ({reason}); start one with "
            "`ray start --head`, and give the address that it prints."
        ) from None


def ended(error: BaseException) -> NumclipError:
    """Return the error of a job that Ray ended, in a sentence."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # of a traceback, the last line says what happened
    reason = lines[-1].strip() if lines else type(error).__name__
    return NumclipError(
        f"Ray ended the job ({type(error).__name__}: {reason}); each machine needs numclip with "
        "the same extras and version, and the same command goes on."
    )
