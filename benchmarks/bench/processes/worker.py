"""Processes that a benchmark starts, and the answers that it reads from them: see `child`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from numclip_runtime import errors
from numclip_runtime.errors import ModelError

_REPOSITORY = Path(__file__).resolve().parents[3]


class Worker:
    """A `child` process; use as a context manager.

    Args:
        target: Function or class, such as "benchmarks.bench.machine.ceilings:measure_ceilings".
        name: For error messages.
        arguments: Plain data for it.

    Raises:
        NumclipError: of the type that the process met; MissingDependencyError for ImportError.
        ModelError: if the process dies.
    """

    def __init__(self, target: str, name: str, /, **arguments: Any) -> None:
        self._name = name
        # A file, not a pipe: a process that fills the pipe of stderr would wait for ever.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        start = perf_counter()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.bench.processes.child",
                target,
                json.dumps(arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(),
            text=True,
            encoding="utf-8",
        )
        try:
            self.first: Any = self._answer()  # the first answer
        except BaseException:
            self.close()
            raise
        self.first_s = perf_counter() - start  # seconds until then, process start included

    def ask(self, command: str, /, **arguments: Any) -> Any:
        """Send a command; return its result. Errors are those of the class."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # a dead process: its last words give the reason
            print(json.dumps({"do": command, **arguments}), file=self.process.stdin, flush=True)
        return self._answer()

    def rest(self) -> Iterator[Any]:
        """Yield a generator's answers after the first one, until the process ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield self._result(line)
        if self.process.wait():
            raise self._death()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise self._death()
        return self._result(line)

    def _result(self, line: str) -> Any:
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["type"], ModelError)(answer["error"])
        return answer["result"]

    def _death(self) -> ModelError:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        code, last = self.process.returncode, lines[-1] if lines else "no output"
        return ModelError(f"{self._name}: its process ended, exit code {code} ({last}).")

    def close(self) -> None:
        """End the process; idempotent."""
        process = self.process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call_apart(target: str, /, **arguments: Any) -> Any:
    """Call a function in a process of its own: its imports and memory are gone afterwards.

    Arguments and result are plain data, a dataclass comes as a dict; errors as those of `Worker`.
    """
    with Worker(target, target, **arguments) as worker:
        return worker.first


def child_environment() -> dict[str, str]:
    """Return variables with which a process finds `benchmarks`, from any working folder."""
    path = os.environ.get("PYTHONPATH")
    root = str(_REPOSITORY)
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}
