"""A check of a part, its result, and the settings that all parts get."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from benchmarks.bench.machine.environment import loaded_versions
from numclip_runtime.cuda.probe import LIBRARY

Status = Literal["passed", "failed", "skipped"]
TRACEBACK_LINES = 6  # of a failed check that are kept
VERSIONS = "versions"  # name of a part's last check: of the packages that it has loaded
STANDIN = "libcuda.so.1"  # the stand-in for the driver, in the working folder


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Status
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)  # what was measured, plain data
    reason: str | None = None  # why it failed or was skipped


@dataclass(frozen=True)
class Settings:
    """What a part is told; plain data."""

    rehearse: bool  # on the CPU, with the stand-in for the driver
    work: str  # folder of logs and of temporary files
    out: str  # folder of results
    models: str  # folder of `proof_models`
    seconds: float  # until the part is ended

    @property
    def library(self) -> str:
        """The driver's library."""
        return str(Path(self.work) / STANDIN) if self.rehearse else LIBRARY

    @property
    def device(self) -> str:
        """The device of torch and of onnxruntime."""
        return "cpu" if self.rehearse else "cuda"


class CheckSkippedError(Exception):
    """A check has no meaning here; the message is the reason."""


def expect(condition: bool, otherwise: str) -> None:
    """Fail the check with a sentence unless the condition holds."""
    if not condition:
        raise AssertionError(otherwise)


def tried(name: str, work: Callable[[], Mapping[str, Any] | None]) -> Check:
    """Run a check; what it returns are its facts, and an exception is its failure.

    The name goes to stderr first, so that the log of a process that dies ends with it.
    """
    print(f"check: {name}", file=sys.stderr, flush=True)
    start = perf_counter()
    facts: Mapping[str, Any] = {}
    reason: str | None = None
    status: Status = "failed"
    try:
        facts = work() or {}
        status = "passed"
    except CheckSkippedError as error:
        status, reason = "skipped", str(error)
    except Exception as error:
        lines = traceback.format_exc().strip().splitlines()
        own = isinstance(error, AssertionError) and error.args
        reason = str(error) if own else "\n".join(lines[-TRACEBACK_LINES:])
    return Check(name, status, round(perf_counter() - start, 3), dict(facts), reason)


def loaded_packages() -> Check:
    """Return the versions of the packages that this process has loaded, as a check."""
    return Check(VERSIONS, "passed", 0.0, dict(loaded_versions()))
