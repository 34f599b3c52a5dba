"""What a machine would choose from a bundle, and why not the others: a table for the doctor."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.backends import DEFAULTS
from numclip_runtime.backends.bundle_choice import Candidate, candidates, read_surroundings
from numclip_runtime.console import WIDTH, cut, visible
from numclip_runtime.errors import NumclipError
from numclip_runtime.files import sha256
from numclip_runtime.model_files.bundle import Artefact, Bundle

NAME_WIDTH = 34  # characters of a file's name in the table


@dataclass(frozen=True)
class ArtefactCheck:
    """A line of the table."""

    file: str
    device: str  # "cuda" or "cpu"; "-": the bundle has no such file
    runs: bool  # as far as one can tell without opening it
    why: str  # its place in the order, or why it does not run


def check_artefacts(bundle: Bundle) -> tuple[list[ArtefactCheck], list[str]]:
    """Return the table, in the order of the choice, and what is wrong with the files.

    Every file is read and compared with its SHA-256.
    """
    faults = {one.file: fault for one in bundle.artefacts if (fault := _fault(bundle, one))}
    found = [
        _checked(way, faults.get(way.artefact.file))
        for way in candidates(bundle, DEFAULTS, read_surroundings())
    ]
    found.sort(key=lambda line: not line.runs)  # stable
    left_out = [ArtefactCheck(one.target, "-", False, one.reason) for one in bundle.missing]
    return found + left_out, [f"{bundle.folder / name}: {text}." for name, text in faults.items()]


def _checked(way: Candidate, fault: str | None) -> ArtefactCheck:
    problem = fault or way.problem
    return ArtefactCheck(way.artefact.file, way.device, problem is None, problem or way.why)


def _fault(bundle: Bundle, artefact: Artefact) -> str | None:
    try:
        path: Path = bundle.path(artefact)
        if not path.exists():
            return "missing"
        same = sha256(path) == artefact.sha256.lower()
    except NumclipError as error:
        return str(error).partition(": ")[2].rstrip(".")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if same else "its SHA-256 is not the one in bundle.json"


def table_of(lines: Sequence[ArtefactCheck]) -> Iterator[str]:
    """Yield the lines of the table, at most `WIDTH` characters each."""
    names = [cut(line.file, NAME_WIDTH) for line in lines]
    wide = max(map(len, ("artefact", *names)))
    yield f"{'artefact':{wide}}  on    here  why"
    indent = " " * (wide + 14)
    for name, line in zip(names, lines, strict=True):
        head = f"{name:{wide}}  {line.device:4}  {'yes' if line.runs else 'no':4}  "
        yield from textwrap.wrap(
            visible(line.why), WIDTH, initial_indent=head, subsequent_indent=indent
        )
