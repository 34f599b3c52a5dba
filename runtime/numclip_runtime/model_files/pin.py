"""Pins: the SHA-256 that a model file must have, as the user gives it or a file beside it states.

The file beside it is `<model>.sha256`, as `sha256sum` writes and reads it; numclip-export leaves
one beside each model that it writes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.files import read_limited
from numclip_runtime.model_files.open_model import OpenModel

LIMIT = 1 << 16  # bytes of a file with checksums
GIVEN = "the given SHA-256"


def path_beside(model: Path) -> Path:
    """Return where the checksum of a model stands."""
    return model.with_name(f"{model.name}.sha256")


def pin_beside(model: Path) -> str | None:
    """Return the digest in `<model>.sha256`; None: no such file.

    Of several lines the one that names the model counts.

    Raises:
        UsageError: if the file cannot be read, or states no digest of the model.
    """
    beside = path_beside(model)
    if not os.path.lexists(beside):
        return None
    try:
        text = read_limited(beside, LIMIT).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{beside}: cannot read this checksum ({error.strerror}).") from None
    # "<digest>  <name>", or "<digest> *<name>"; a backslash says that the name is escaped
    rows = [line.lstrip("\\").split(maxsplit=1) for line in text.splitlines() if line.strip()]
    named = [row for row in rows if len(row) == 2 and row[1].lstrip("*") == model.name]
    chosen = named or rows
    if len({row[0] for row in chosen}) != 1:
        raise UsageError(
            f"{beside}: states no single SHA-256 of {model.name}; write it again with "
            f"`sha256sum {model.name}`, or delete it."
        )
    return chosen[0][0]


@contextmanager
def compared(model: OpenModel, pinned: str | None) -> Iterator[None]:
    """Compare a model with its pin, around the block that loads it.

    A given pin is compared before the block. The one beside an ONNX file is
    compared while the block runs, in a thread, so that it costs hardly any time; the error comes
    at the end of the block, in place of any that the block raises.

    Args:
        model: The open file.
        pinned: Expected SHA-256, hexadecimal; None: that in the file beside it, if there is one.

    Raises:
        UsageError: if the pin is not a SHA-256, or the file beside it is unreadable.
        ModelError: if they differ.
    """
    source = GIVEN if pinned is not None else str(path_beside(model.path))
    pinned = pinned if pinned is not None else pin_beside(model.path)
    if pinned is None:
        yield
        return
    check_pin(pinned, source)
    if source == GIVEN:
        check_sha256(model.path, model.sha256(), pinned, source)
        yield
        return
    hashing = _Hashing(model)
    try:
        yield
    finally:
        check_sha256(model.path, hashing.result(), pinned, source)


def check_plan_pin(path: Path, plan: bytes, pinned: str | None) -> None:
    """Compare a plan with its pin, see `compared`, before anything else is done with it.

    A plan contains code for the GPU and, if it is version-compatible, for the CPU.

    Args:
        path: Of the plan.
        plan: The bytes that TensorRT will get.
        pinned: Expected SHA-256, hexadecimal; None: that in the file beside it, if there is one.

    Raises:
        UsageError: if the pin is not a SHA-256, or the file beside it is unreadable.
        ModelError: if they differ.
    """
    source = GIVEN if pinned is not None else str(path_beside(path))
    pinned = pinned if pinned is not None else pin_beside(path)
    if pinned is not None:
        import hashlib  # 3 ms

        check_sha256(path, hashlib.sha256(plan).hexdigest(), pinned, source)


def check_pin(pinned: str, source: str = GIVEN) -> None:
    """Refuse a pin that cannot be a SHA-256.

    Raises:
        UsageError: if it is none.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", pinned) is None:
        shown = pinned if len(pinned) <= 80 else f"{pinned[:80]}..."
        raise UsageError(f"{source}: {shown!r} is not a SHA-256, which has 64 hexadecimal digits.")


def check_sha256(path: Path, found: str, pinned: str, source: str = GIVEN) -> None:
    """Compare a file's digest with the pinned one.

    Args:
        path: Named in errors.
        found: The file's SHA-256, hexadecimal.
        pinned: The expected SHA-256, hexadecimal.
        source: Origin of the expected one, named in errors.

    Raises:
        UsageError: if `pinned` is not a SHA-256.
        ModelError: if they differ.
    """
    check_pin(pinned, source)
    if found != pinned.lower():
        own = "" if source == GIVEN else f"; if you changed it yourself, delete {source}"
        raise ModelError(
            f"{path}: its SHA-256 is {found}, but {source} states {pinned.lower()}; it was not "
            f"loaded. Copy it again from a trusted place, or build it again{own}."
        )


class _Hashing:
    """A thread that hashes a model."""

    def __init__(self, model: OpenModel) -> None:
        self._model = model
        self._error: ModelError | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads are allowed
            self._thread = None

    def _run(self) -> None:
        try:
            self._model.sha256()
        except ModelError as error:
            self._error = error

    def result(self) -> str:
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._model.sha256()
