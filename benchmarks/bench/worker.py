"""Processes that a run starts: one per competitor, and one for each heavy preparation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

from benchmarks.competitor import Competitor
from numclip_runtime import errors
from numclip_runtime.errors import ModelError

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A competitor's process; use as a context manager.

    Args:
        competitor: What it opens.
        image: What it predicts first.

    Raises:
        NumclipError: of the type that the process met, if the competitor cannot be opened.
        ModelError: if the process dies.
    """

    def __init__(self, competitor: Competitor, image: str) -> None:
        self.competitor = competitor
        # A file, not a pipe: a process that fills the pipe of stderr would wait for ever.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        text = json.dumps(competitor.to_dict())
        start = perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bench.system_server", text, image],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            text=True,
            encoding="utf-8",
        )
        try:
            self.about: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise
        self.first_prediction_s = perf_counter() - start  # process start included

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command of `benchmarks.bench.system_server.Server`; return its result.

        Raises:
            NumclipError: of the type that the process met.
            ModelError: if the process dies.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # a dead process: its last words say why
            print(json.dumps({"do": command, **arguments}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ModelError(
                f"{self.competitor.name}: its process ended, exit code {code} "
                f"({last_line(self._errors)})."
            )
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["type"], ModelError)(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the process; a second time is fine."""
        process = self._process
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_CALL = """
import json, os, sys
from importlib import import_module
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
from numclip_runtime import NumclipError
module, function, arguments = sys.argv[1:]
try:
    said = {"result": getattr(import_module(module), function)(**json.loads(arguments))}
except NumclipError as error:
    said = {"error": str(error), "type": type(error).__name__}
except ImportError as error:
    said = {"error": str(error), "type": "MissingDependencyError"}
print(json.dumps(said), file=answers, flush=True)
"""


def call_apart(module: str, function: str, **arguments: Any) -> Any:
    """Call a function in a process of its own: what it imports and allocates is gone afterwards.

    Args:
        module: Such as "benchmarks.bench.machine.ceilings".
        function: Its name there.
        arguments: Plain data.

    Returns:
        Plain data.

    Raises:
        NumclipError: of the type that the function met; MissingDependencyError for ImportError.
        ModelError: if the process dies.
    """
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [sys.executable, "-c", _CALL, module, function, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment(),
            check=False,
        )
        if done.returncode:
            raise ModelError(
                f"{module}.{function}: its process ended, exit code {done.returncode} "
                f"({last_line(said)})."
            )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise getattr(errors, answer["type"], ModelError)(answer["error"])
    return answer["result"]


def last_line(file: Any) -> str:
    """Return the last line that a process wrote to its stderr."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def environment() -> dict[str, str]:
    """Let a process find `benchmarks`, whatever folder the run was started from."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}
