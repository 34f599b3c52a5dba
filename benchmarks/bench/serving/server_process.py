"""A server of `numclip serve` in a process of its own, and what that process takes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numclip_runtime.errors import ModelError, import_extra

START_S = 120.0
_ADDRESS = re.compile(r"at http://127\.0\.0\.1:(\d+) ")


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    port: int
    process: subprocess.Popen[str]
    watched: Any  # psutil's view of it

    def rss_mib(self) -> float:
        """Return its resident memory, MiB."""
        return float(self.watched.memory_info().rss) / 2**20

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return int(self.watched.num_fds())

    def threads(self) -> int:
        """Return how many threads it has."""
        return int(self.watched.num_threads())

    def cpu_s(self) -> float:
        """Return the seconds of CPU that it has used."""
        times = self.watched.cpu_times()
        return float(times.user + times.system)


@contextmanager
def server_process(model: str, flags: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """Start a server on a free port of this machine, wait until it is ready, and stop it after.

    Raises:
        ModelError: if it does not start.
        MissingDependencyError: if psutil is not installed.
    """
    psutil = import_extra("bench", "psutil")
    command = [sys.executable, "-m", "numclip", "serve", model, "--port", "0", "--quiet", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while (found := _ADDRESS.search(said)) is None:
            line = process.stderr.readline()
            if not line:
                raise ModelError(f"the server did not start: {said.strip()}")
            said += line
        port = int(found[1])
        _wait_until_ready(port)
        yield ServerProcess(port, process, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.communicate()


def _wait_until_ready(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise ModelError(f"the server was not ready within {START_S:g} s.")
