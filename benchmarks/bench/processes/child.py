"""A process that works for a benchmark: `python -m benchmarks.bench.processes.child TARGET JSON`.

TARGET is MODULE:NAME of a function or class, called with the arguments in JSON. Answers go to
stdout, one line of JSON each: {"result": ...} or {"error": message, "type": class}.

- A function's result is the only answer; a generator's values are one answer each.
- An object with COMMANDS, names of its methods, first answers with `about()`, and then reads
  commands from stdin, {"do": name, **arguments}, with one answer each, until stdin ends.

It imports nothing before the module: a measured program has its process to itself.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from types import GeneratorType

TYPE_CHECKING = False
if TYPE_CHECKING:  # not from typing, which would be part of a measured program's imports
    from collections.abc import Callable
    from typing import IO, Any


def main() -> None:
    """Answer until the work is done, or stdin ends."""
    # Libraries print to stdout as well: all that is not an answer goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        target, arguments = sys.argv[1:]
        module, _, name = target.partition(":")
        _reply(answers, lambda: _start(answers, module, name, json.loads(arguments)))


def _start(answers: IO[str], module: str, name: str, arguments: dict[str, Any]) -> None:
    found: Any = getattr(import_module(module), name)(**arguments)
    if isinstance(found, GeneratorType):
        for value in found:
            _write(answers, value)
    elif not hasattr(found, "COMMANDS"):
        _write(answers, found)
    else:
        _write(answers, found.about())
        for line in sys.stdin:
            asked = json.loads(line)
            command = asked.pop("do")
            assert command in found.COMMANDS, command
            method = getattr(found, command)
            _reply(answers, lambda m=method, a=asked: _write(answers, m(**a)))  # type: ignore[misc]
        found.close()


def _reply(answers: IO[str], work: Callable[[], None]) -> None:
    """Do the work; an error that numclip raised, or a missing package, becomes the answer."""
    try:
        work()
    except Exception as error:
        from numclip_runtime.errors import NumclipError

        kind = type(error).__name__
        if not isinstance(error, NumclipError):
            if not isinstance(error, ImportError):
                raise
            kind = "MissingDependencyError"
        print(json.dumps({"error": str(error), "type": kind}), file=answers, flush=True)


def _write(answers: IO[str], result: Any) -> None:
    if hasattr(result, "__dataclass_fields__"):
        from dataclasses import asdict

        result = asdict(result)
    print(json.dumps({"result": result}), file=answers, flush=True)


if __name__ == "__main__":
    main()
