"""The primary context of a GPU, and the base class of the resources in it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from ctypes import c_int, c_void_p
from typing import Any

from numclip_runtime.cuda.api import DEINITIALIZED, CudaApi, CudaError
from numclip_runtime.cuda.probe import LIBRARY


class CudaContext:
    """A GPU's primary context, retained.

    Several threads may use it, each inside `with context.current():`. It cannot be used in a
    child of `fork`, as with all of CUDA.

    Args:
        ordinal: Which GPU, among those that CUDA_VISIBLE_DEVICES shows.
        library: The driver's library.

    Raises:
        CudaError: if there is no driver, or no such GPU.
    """

    def __init__(self, ordinal: int = 0, *, library: str = LIBRARY) -> None:
        self.api = api = CudaApi(library)
        device = api.get("cuDeviceGet", c_int, ordinal)
        self._handle = api.get("cuDevicePrimaryCtxRetain", c_void_p, device)
        self._current = _Current(api, self._handle)
        self._release = weakref.finalize(self, _release, api, device)

    def current(self) -> AbstractContextManager[None]:
        """Make this the calling thread's context for the block; nests."""
        return self._current

    def close(self) -> None:
        """Release the context; everything made in it must be closed before."""
        self._release()


class _Current:
    """Pushes and pops a context; without state, so several threads may use it at once.

    Each inference comes through here. `contextlib.contextmanager` would make an object and a
    generator each time, 1.5 of the 8 us that a call costs in Python.
    """

    def __init__(self, api: CudaApi, handle: Any) -> None:
        self._call, self._handle = api.call, handle
        self._popped = ctypes.byref(c_void_p())  # written by the driver, and never read

    def __enter__(self) -> None:
        self._call("cuCtxPushCurrent_v2", self._handle)

    def __exit__(self, *_: object) -> None:
        self._call("cuCtxPopCurrent_v2", self._popped)


class Resource:
    """A resource that the driver made in a context; freed once, by `close` or when collected.

    Making and closing push the context by themselves; the other methods must be called inside
    `with context.current():`, so that one push serves a whole inference.

    Args:
        context: Of the resource; kept alive until this is freed.
        handle: The driver's pointer.
        free: The function that frees the pointer.
        holder: Freed when this is collected; None: this object.
    """

    def __init__(
        self, context: CudaContext, handle: Any, free: str, holder: object | None = None
    ) -> None:
        self.context = context
        self.handle = handle
        # At exit finalizers run newest first, so the context's own comes last.
        mortal = self if holder is None else holder
        self._finalizer = weakref.finalize(mortal, _free, context, free, handle)

    @property
    def closed(self) -> bool:
        """Whether it was freed."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Free it; idempotent."""
        self._finalizer()


def make(context: CudaContext, function: str, kind: Any, *args: Any) -> Any:
    """Call a function that makes a resource in a context; return its pointer."""
    with context.current():
        return context.api.get(function, kind, *args)


def _free(context: CudaContext, function: str, handle: Any) -> None:
    with _gone_is_freed(), context.current():
        context.api.call(function, handle)


def _release(api: CudaApi, device: int) -> None:
    with _gone_is_freed():
        api.call("cuDevicePrimaryCtxRelease_v2", device)


@contextmanager
def _gone_is_freed() -> Iterator[None]:
    """Ignore failures of a driver that has shut down, as it does at exit."""
    try:
        yield
    except CudaError as error:
        if error.status != DEINITIALIZED:
            raise
