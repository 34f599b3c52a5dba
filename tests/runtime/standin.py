"""The stand-in driver library: compiled, and asked what was done with it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "data" / "standin_driver.c"
KINDS = ("device", "pinned", "stream", "event", "graph", "graph exec", "context")
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
ENGINES = ("upload", "kernel", "download")


@dataclass(frozen=True)
class Span:
    """A piece of work that ran."""

    stream: int  # number of its stream
    engine: str  # one of ENGINES
    start: float  # in seconds, on a clock that all share
    end: float

    def overlaps(self, other: Span) -> bool:
        """Return whether both ran at some moment."""
        return self.start < other.end and other.start < self.end


class StandinDriver:
    """A library that implements the driver's functions on host memory; see its source."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.standin_calls.restype = ctypes.c_char_p
        self.library.standin_enqueue.argtypes = (
            *(KERNEL, ctypes.c_void_p, ctypes.c_void_p),
            ctypes.c_int,
        )
        self.library.standin_is_capturing.argtypes = (ctypes.c_void_p,)
        self.library.standin_is_device.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self.library.standin_spans.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self.kernels: list[object] = []  # what was enqueued must live until it has run

    @property
    def calls(self) -> list[str]:
        """Names of the functions called since `forget`, in order."""
        return bytes(self.library.standin_calls()).decode().split()

    @property
    def alive(self) -> dict[str, int]:
        """What was made and not freed."""
        counts = {kind: self.library.standin_live(i) for i, kind in enumerate(KINDS)}
        return {kind: count for kind, count in counts.items() if count}

    @property
    def pushed(self) -> int:
        """Contexts pushed and not popped, all threads together."""
        return int(self.library.standin_pushed())

    @property
    def faults(self) -> int:
        """How often memory or a stream was gone before the work on it was done."""
        return int(self.library.standin_faults())

    @property
    def spans(self) -> list[Span]:
        """What ran since `forget` while `working` was in force, in the order of its ends."""
        count = self.library.standin_spans(None, 0)
        numbers = (ctypes.c_double * (4 * count))()
        self.library.standin_spans(numbers, count)
        return [
            Span(int(numbers[i]), ENGINES[int(numbers[i + 1])], *numbers[i + 2 : i + 4])
            for i in range(0, 4 * count, 4)
        ]

    @contextmanager
    def working(self, upload_ms: float, kernel_ms: float, download_ms: float) -> Iterator[None]:
        """Let streams work by themselves in the block, with these times; see the C source."""
        times = (upload_ms, kernel_ms, download_ms)
        self.library.standin_delays(*(int(1e3 * time) for time in times))
        try:
            yield
        finally:
            self.library.standin_delays(-1, -1, -1)

    def synchronize_device(self) -> int:
        """Break all captures, as cudaDeviceSynchronize would; return the driver's status."""
        return int(self.library.standin_synchronize_device())

    def forget(self) -> None:
        """Forget the calls so far, what ran, and what was to fail."""
        self.library.standin_forget()

    def fail(self, function: str, status: int, *, after: int = 0) -> None:
        """Make a coming call of a function fail, once."""
        self.library.standin_fail(function.encode(), status, after)

    def enqueue(self, work: Callable[[], None], stream: int, *, capturable: bool = True) -> int:
        """Enqueue a kernel; return the driver's status."""
        kernel = KERNEL(lambda _: work())
        self.kernels.append(kernel)
        return int(self.library.standin_enqueue(kernel, None, stream, capturable))

    def is_capturing(self, stream: int) -> bool:
        """Return whether work on a stream is recorded and not run."""
        return bool(self.library.standin_is_capturing(stream))

    def is_device(self, address: int, size: int) -> bool:
        """Return whether bytes lie in allocated device memory."""
        return bool(self.library.standin_is_device(address, size))


def compile_standin(folder: Path) -> StandinDriver:
    """Compile the stand-in as `libcuda.so.1`; skip the test where no compiler is.

    It gets no soname: with one, every later look for `libcuda.so.1` in this process would find it.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in driver")
    library = folder / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, "-o", str(library), str(SOURCE), "-lpthread"]
    subprocess.run(command, check=True)
    return StandinDriver(library)
