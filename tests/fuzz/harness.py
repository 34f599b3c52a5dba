"""What all fuzz targets share: a file to write into, and the one way in which input may be refused.

A target is a module with two functions:
    target(data): hand bytes to a reader of numclip. Raises for anything but success or a refusal.
    seeds(): yield valid inputs, by which a fuzzer finds the interesting ones fast.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from numclip_runtime import NumclipError

LONGEST_MESSAGE = 2000  # characters; a message is one sentence, and never the content of a file
CORPUS = Path(__file__).with_name("corpus")
TARGETS = ("images", "lists", "metadata", "protobuf", "plan", "task", "tables", "tars", "weights")


class Target(Protocol):
    """A module of `tests.fuzz.targets`."""

    def target(self, data: bytes) -> None: ...

    def seeds(self) -> Iterator[bytes]: ...


class FindingError(AssertionError):
    """A reader accepted or said something that it should not."""


@contextmanager
def refusals() -> Iterator[None]:
    """Let a refusal pass: a NumclipError whose message is one sentence of reasonable length."""
    try:
        yield
    except NumclipError as error:
        text = str(error)
        if not text or len(text) > LONGEST_MESSAGE:
            raise FindingError(f"a message of {len(text)} characters: {text[:200]}") from None


@cache
def scratch() -> Path:
    """Return a folder of this process in memory, if there is one; removed at exit."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def written(data: bytes, suffix: str) -> Path:
    """Return a file with this content; the next call with the same suffix writes it anew."""
    path = scratch() / f"input{suffix}"
    # unlinked first: a truncated file would stay mapped by a reader that has forgotten to close it
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path
