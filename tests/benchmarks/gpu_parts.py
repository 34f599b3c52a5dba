"""Parts of a GPU proof that end well and badly, for the conductor's tests; no torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench.gpu.checks import Check, CheckSkippedError, expect, tried


def works(settings: dict[str, Any]) -> Iterator[Check]:
    place = Path(settings["work"]) / "x.onnx"
    times = {"1": 2.5, "8": 3}
    yield tried("one", lambda: {"place": str(place), "ms": times, "seconds": settings["seconds"]})
    yield Check("versions", "passed", 0.0, {"something": "1.2"})


def fails(settings: dict[str, Any]) -> Iterator[Check]:
    def skip() -> None:
        raise CheckSkippedError("there is none")

    yield tried("good", dict)
    yield tried("bad", lambda: expect(False, "two is not three"))
    yield tried("broken", lambda: {"never": 1 // 0})
    yield tried("absent", skip)


def dies(settings: dict[str, Any]) -> Iterator[Check]:
    yield tried("before", dict)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(settings: dict[str, Any]) -> Iterator[Check]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    yield tried("never", dict)
