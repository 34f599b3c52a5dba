"""What an input means: the images in a folder, or those that a pattern matches."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from numclip_runtime.errors import UsageError

# Searched for in folders. A file named directly is tried with any suffix.
IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm")
) | {".tif", ".tiff", ".webp"}


# A part "**" of a pattern
_SEPARATOR = r"[/\\]" if os.sep == "\\" else "/"
_STARS = re.compile(rf"(?:(?<={_SEPARATOR})|^)(\*\*)(?:{_SEPARATOR}+|$)")

Unreadable: TypeAlias = Callable[[OSError], None]


def find_images(inputs: Sequence[str], unreadable: Unreadable | None = None) -> list[str]:
    """Expand files, folders (recursive, sorted) and glob patterns into image paths.

    A path that does not exist is kept: it becomes one failed record, and others still run.

    Args:
        inputs: Files, folders, patterns.
        unreadable: Called with the error of each folder that cannot be read, whose path is then
            returned as well. None: such a folder is an error.

    Raises:
        UsageError: if a folder contains no image or cannot be read, or a pattern matches nothing.
    """
    found: list[str] = []
    for item in inputs:
        failed: list[str] = []

        def note(error: OSError, failed: list[str] = failed) -> None:
            if unreadable is None:
                raise UsageError(
                    f"{error.filename}: cannot read this folder ({error.strerror})."
                ) from None
            failed.append(error.filename)
            unreadable(error)

        if os.path.isdir(item):  # noqa: PTH112 (pathlib raises on a name that is too long)
            images = sorted([*_walk(item, note), *failed])
            if not images:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise UsageError(f"{item}: no images in this folder (looked for {kinds}).")
            found += images
        elif not os.path.exists(item) and glob.has_magic(item):  # noqa: PTH110
            matches = sorted({*_matches(item, note), *failed})
            if not matches:
                raise UsageError(f"{item}: the pattern matches no file.")
            found += matches
        else:
            found.append(item)
    return found


def _walk(folder: str, unreadable: Unreadable) -> Iterator[str]:
    """Yield the images in a folder and those below; follows links to files, not to folders."""
    for root, _, names in os.walk(folder, onerror=unreadable):
        for name in names:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                path = os.path.join(root, name)  # noqa: PTH118 (pathlib is 5x slower here)
                if not _is_special(path):
                    yield path


def _is_special(path: str) -> bool:
    """Return whether a path is a pipe, socket or device, which would make its reader wait."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (as above)
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _matches(pattern: str, unreadable: Unreadable) -> Iterator[str]:
    """Yield the files that a pattern matches; `**` is any folders, without following links.

    `glob` follows them: two links to their own folder turn `**` into 2^40 paths.
    """
    before, stars, after = _STARS.split(pattern, 1) if _STARS.search(pattern) else (pattern, "", "")
    if not stars:
        # Path.glob refuses absolute patterns
        yield from filter(os.path.isfile, glob.glob(pattern))  # noqa: PTH207
        return
    for base in glob.glob(before) if before else [""]:  # noqa: PTH207
        for root, folders, _ in os.walk(base or os.curdir, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = os.path.join(root, "")  # noqa: PTH118 (keeps "./" where it was given)
            inside = inside if base else inside.removeprefix(os.path.join(os.curdir, ""))  # noqa: PTH118
            yield from _matches(glob.escape(inside) + (after or "*"), unreadable)
