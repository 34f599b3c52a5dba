"""The stand-in for the driver in a rehearsal: compiled from the source that the tests use."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bench.gpu.checks import STANDIN
from benchmarks.bench.machine.environment import REPOSITORY
from numclip_runtime.errors import UsageError

_SOURCE = REPOSITORY / "tests" / "data" / "standin_driver.c"
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def compile_driver(folder: Path) -> Path:
    """Compile the stand-in into a folder.

    Raises:
        UsageError: if there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise UsageError("a rehearsal compiles a stand-in for the driver: install a C compiler.")
    library = folder / STANDIN
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-lpthread"]
    subprocess.run(command, check=True)
    return library


class StandIn:
    """The compiled stand-in, on whose streams work of Python can be enqueued.

    Args:
        library: Result of `compile_driver`.
    """

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.standin_enqueue.argtypes = (
            *(_KERNEL, ctypes.c_void_p, ctypes.c_void_p),
            ctypes.c_int,
        )
        self._kernels: list[Any] = []  # what was enqueued must live until it has run

    def enqueue(self, work: Callable[[], None], stream: int) -> bool:
        """Enqueue work on a stream, a kernel of the "GPU"; return whether that succeeded."""
        kernel = _KERNEL(lambda _: work())
        self._kernels.append(kernel)
        return int(self._library.standin_enqueue(kernel, None, stream, 1)) == 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let streams work by themselves in the block, as on a GPU: 1 ms an upload or kernel."""
        self._library.standin_delays(1000, 1000, 200)
        try:
            yield
        finally:
            self._library.standin_delays(-1, -1, -1)
