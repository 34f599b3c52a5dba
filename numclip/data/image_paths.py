"""From a path in a table to an image file, whichever system wrote the table."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.fields import shown

MAX_PATH = 4096  # bytes, of Linux; Windows has 32,767, and no image lies that deep
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # a drive or a server
_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")  # a byte of a name that is not UTF-8


def image_path(base: Path, text: str) -> Path | None:
    """Return the image file that a table names; None if there is none.

    Where the name as it stands is no file, blanks around it, backslashes in place of slashes, and
    the composed or decomposed form of accents (macOS writes the latter) are tried.

    Args:
        base: Folder that relative paths start from.
        text: Path in the table.
    """
    if len(text) > MAX_PATH:
        return None
    return next((path for name in _spellings(text) if _is_file(path := base / name)), None)


def _spellings(text: str) -> Iterator[str]:
    yield text
    names = [text, text.strip()]
    if os.sep == "/":
        names += [name.replace("\\", "/") for name in names]
    for name in dict.fromkeys(names):
        if name:
            yield from (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    if "\\udc" in text:  # as `write_csv` writes it
        yield _ESCAPED.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError as error:
        raise UsageError(
            f"{visible(path)}: cannot look for this image ({error.strerror})."
        ) from None
    except (OSError, ValueError):  # a name too long; a NUL or lone surrogate
        return False


def absence(source: Path, absent: list[str], total: int) -> str:
    """Return one sentence about the images that do not exist.

    Args:
        source: Table.
        absent: Paths of missing images, at least one, as in the table.
        total: Number of its images.
    """
    first = absent[0]
    if os.sep == "/" and _WINDOWS.match(first):
        way_out = (
            "these are paths of another machine; write them relative to this file, or to --root."
        )
    else:
        way_out = "paths are relative to this file's folder, or to --root."
    name = shown(first) if visible(first) != first or len(first) > 200 else first
    return (
        f"{visible(source)}: {len(absent)} of {total} images do not exist, first {name}; {way_out}"
    )
