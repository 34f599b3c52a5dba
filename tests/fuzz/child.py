"""One fuzzing process: `python -m tests.fuzz.child TARGET FINDINGS_FOLDER [libFuzzer's options]`.

An exception that is not a refusal is noted once per place and kept with its input; fuzzing goes on.
A crash of the interpreter, a hang, or too much memory ends the process; libFuzzer keeps the input.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import sys
import traceback
import warnings
from pathlib import Path

import atheris

HEADROOM = 3 << 29  # bytes of address space beyond what the packages need: 1.5 GiB
FIRST_PARTY = ("numclip", "numclip_runtime")


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    with atheris.instrument_imports(include=[*FIRST_PARTY, "PIL"], enable_loader_override=False):
        module = importlib.import_module(f"tests.fuzz.targets.{name}")
    if prepare := getattr(module, "prepare", None):
        prepare()
    warnings.simplefilter("ignore")
    _limit_memory()
    seen: set[str] = set()

    def test_one_input(data: bytes) -> None:
        try:
            module.target(data)
        except Exception as error:
            place = place_of(error)
            if place not in seen:
                seen.add(place)
                _keep(folder, place, error, data)

    atheris.Setup([sys.argv[0], *sys.argv[3:]], test_one_input)
    atheris.Fuzz()


def place_of(error: BaseException) -> str:
    """Return the kind of an error and the innermost line of ours: one finding has one place."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/numclip" in f.filename and "site-packages" not in f.filename]
    frame = (ours or list(frames))[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno} ({frame.name})"


def _keep(folder: Path, place: str, error: Exception, data: bytes) -> None:
    key = hashlib.sha256(place.encode()).hexdigest()[:12]
    (folder / f"error-{key}").write_bytes(data)
    text = str(error)[:300].encode("utf-8", "backslashreplace").decode()
    note = {"place": place, "message": text, "bytes": len(data)}
    (folder / f"error-{key}.json").write_text(json.dumps(note))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
