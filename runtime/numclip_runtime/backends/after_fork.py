"""Models in a forked process: their threads stayed in the parent, so they are left alone.

A fork copies the memory of onnxruntime, OpenVINO or CUDA, but of their threads none. Running a
model in the child, and even freeing it, waits for those threads for ever.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol
from weakref import WeakSet

from numclip_runtime.posix import call_in_forked_child

FORKED = (
    "was opened before this process was forked, and its threads stayed in the other one; load it "
    'again here, or start processes with multiprocessing\'s "spawn".'
)


class Forgetful(Protocol):
    """An object that holds what does not survive a fork."""

    def forget(self) -> None:
        """Let go of it in the child, without freeing it."""
        ...


_alive: WeakSet[Forgetful] = WeakSet()


def forget_after_fork(owner: Forgetful) -> None:
    """Call `owner.forget()` in each process that is forked while it lives."""
    _register()
    _alive.add(owner)


def never_freed(*things: object) -> None:
    """Keep objects to the end of the process and beyond: the interpreter's exit frees others."""
    import ctypes  # 5 ms

    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@cache
def _register() -> None:
    call_in_forked_child(_in_child)


def _in_child() -> None:
    for owner in list(_alive):
        owner.forget()
