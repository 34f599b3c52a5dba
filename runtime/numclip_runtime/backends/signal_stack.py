"""Keep a library's hands off the stack that this thread's signal handlers run on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the calling thread the signal stack back that it had before (Linux).

    OpenVINO 2026.4 gives the thread that compiles a model a signal stack inside that model, and
    puts back what it found when the model is freed. Freed by another thread, or not in the reverse
    order of compiling, a thread was left with freed memory, and the next Ctrl-C was a SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    import ctypes

    class Stack(ctypes.Structure):
        """stack_t of signal.h."""

        _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
