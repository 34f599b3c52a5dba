"""Small reads below /proc and /sys, where any file can be absent, empty or unreadable."""

from __future__ import annotations

import re
from pathlib import Path


def read_text(path: Path) -> str | None:
    """Return the text without white space and NUL at its ends; None if it can't be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip("\0 \t\n")
    except OSError:  # sensors answer EIO or EAGAIN while they sleep
        return None


def read_int(path: Path) -> int | None:
    """Return the whole number that the file begins with; None if there is none."""
    match = re.match(r"[+-]?\d+", read_text(path) or "")  # JetPack 4 writes "32760 ma"
    return None if match is None else int(match[0])


def read_scaled(path: Path, factor: float, digits: int | None = None) -> float | None:
    """Return the number times a factor, rounded; None if there is none."""
    value = read_int(path)
    return None if value is None else round(value * factor, digits)


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the matches of a glob pattern, cpu2 before cpu10; none where the folder is absent."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: _natural(path.as_posix()))
    except OSError:
        return []


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
