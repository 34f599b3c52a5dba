"""Protect the stack on which this thread's signal handlers run from a library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Restore the calling thread's signal stack at the end of the block (Linux).

    OpenVINO 2026.4 gives the thread that compiles a model a signal stack inside that model, and
    restores the former one when the model is freed. If another thread frees it, or in another
    order, the first thread keeps a stack in freed memory, and the next Ctrl-C is a SIGSEGV.
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
