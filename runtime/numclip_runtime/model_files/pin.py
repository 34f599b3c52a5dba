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


def checksum_line(digest: str, name: str) -> str:
    """Return the content of a checksum file as `sha256sum` writes it, which escapes odd names."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


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
    """Compare an ONNX file with its pin, around the block that loads it.

    A given pin is compared before the block. The one in the file beside it is compared while the
    block runs, in a thread, so that it costs hardly any time; its error comes at the end of the
    block, in place of any that the block raises.

    Args:
        model: The open file.
        pinned: Expected SHA-256, hexadecimal; None: that in the file beside it, if there is one.

    Raises:
        UsageError: if the pin is not a SHA-256, or the file beside it is unreadable.
        ModelError: if they differ.
    """
    if pinned is not None or not os.path.lexists(path_beside(model.path)):
        check_pinned(model, pinned)
        yield
        return
    expected = _pin_of(model, None)
    hashing = _Hashing(model)
    try:
        yield
    finally:
        hashing.end()
        _check(model, expected)


def check_pinned(model: OpenModel, pinned: str | None) -> None:
    """Compare a model with its pin, before anything else is done with it; see `compared`.

    A plan contains code for the GPU and, if it is version-compatible, for the CPU.

    Raises:
        UsageError: if the pin is not a SHA-256, or the file beside it is unreadable.
        ModelError: if they differ.
    """
    _check(model, _pin_of(model, pinned))


def _pin_of(model: OpenModel, pinned: str | None) -> tuple[str | None, str]:
    """Return the expected digest, None if there is none, and its origin."""
    source = GIVEN if pinned is not None else str(path_beside(model.path))
    pinned = pinned if pinned is not None else pin_beside(model.path)
    if pinned is not None:
        check_pin(pinned, source)
    return pinned, source


def _check(model: OpenModel, expected: tuple[str | None, str]) -> None:
    pinned, source = expected
    if pinned is not None and model.sha256() != pinned.lower():
        own = "" if source == GIVEN else f"; if you changed it yourself, delete {source}"
        raise ModelError(
            f"{model.path}: its SHA-256 is {model.sha256()}, but {source} states {pinned.lower()}; "
            f"it was not loaded. Copy it again from a trusted place, or build it again{own}."
        )


def check_pin(pinned: str, source: str = GIVEN) -> None:
    """Refuse a pin that cannot be a SHA-256.

    Raises:
        UsageError: if it is none.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", pinned) is None:
        shown = pinned if len(pinned) <= 80 else f"{pinned[:80]}..."
        raise UsageError(f"{source}: {shown!r} is not a SHA-256, which has 64 hexadecimal digits.")


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

    def end(self) -> None:
        """Wait for it."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
