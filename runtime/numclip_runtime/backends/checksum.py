"""Pinned SHA-256 of a model file."""

from __future__ import annotations

import re
from pathlib import Path

from numclip_runtime.errors import ModelError, UsageError


def pin_beside(path: Path) -> str | None:
    """Return the digest that `<path>.sha256` gives, in the form of `sha256sum`; None: no file.

    Raises:
        UsageError: if the file says nothing that can be read.
    """
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.exists():
        return None
    try:
        return beside.read_text("utf-8").split(maxsplit=1)[0]  # "<digest>  <name>"
    except (OSError, UnicodeDecodeError, IndexError):
        raise UsageError(f"{beside}: cannot read a SHA-256 from it.") from None


def check_sha256(path: Path, found: str, pinned: str, source: str = "the given SHA-256") -> None:
    """Compare a file's digest with the pinned one.

    Args:
        path: Named in errors.
        found: The file's SHA-256, hexadecimal.
        pinned: What it must be.
        source: Who says so, named in errors.

    Raises:
        UsageError: if the pin is no SHA-256.
        ModelError: if they differ.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", pinned) is None:
        raise UsageError(f"{source}: {pinned!r} is no SHA-256, which has 64 hexadecimal digits.")
    if found != pinned.lower():
        raise ModelError(
            f"{path}: its SHA-256 is {found}, but {source} says {pinned.lower()}; it was not "
            "loaded. Copy it again from where you trust it, or build it again."
        )
