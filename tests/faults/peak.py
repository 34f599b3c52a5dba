"""The memory that a piece of Python takes at most, measured in a child with a limit."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS_SPACE = 6 << 30  # bytes beyond which the child fails, so that no test takes the machine
SECONDS = 60
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Peak:
    """What a piece of Python took, and how it ended."""

    mib: int  # largest resident memory
    seconds: float
    error: str  # name of the exception; empty: none; "killed": by a signal
    message: str


def peaks_of(snippets: Sequence[str], *, modules: Sequence[str]) -> list[Peak]:
    """Run each snippet in a child of its own, which has imported the modules."""
    folders = os.pathsep.join(str(ROOT / part) for part in ("", "export", "runtime"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.peak"],
        input=json.dumps({"snippets": snippets, "modules": modules}),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1"},
    )
    return [Peak(**json.loads(line)) for line in done.stdout.splitlines()]


def _main() -> None:
    request = json.load(sys.stdin)
    for name in request["modules"]:
        importlib.import_module(name)
    for snippet in request["snippets"]:
        read, write = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(snippet, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        _, status, usage = os.wait4(pid, 0)
        signalled = {"error": "killed", "message": f"status {status}"}
        found = json.loads(said) if said else signalled
        seconds = time.monotonic() - started
        print(json.dumps(found | {"mib": usage.ru_maxrss >> 10, "seconds": seconds}), flush=True)


def _child(snippet: str, write: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    found = {"error": "", "message": ""}
    try:
        exec(snippet, {})
    except BaseException as error:
        found = {"error": type(error).__name__, "message": str(error)[:500]}
    with os.fdopen(write, "w") as pipe:
        json.dump(found, pipe)
    os._exit(0)


if __name__ == "__main__":
    _main()
