"""From a path in a table to an image file, whichever system wrote the table."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

from numclip.data.tar_index import TarIndex, TarMember, member_at
from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.fields import shown
from numclip_runtime.images.formats import IMAGE_SUFFIXES

MAX_PATH = 4096  # bytes, of Linux; Windows has 32,767, and no image lies that deep
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # a drive or a server
_ELSEWHERE = re.compile(r"[A-Za-z]:[\\/]|[\\/]")  # from the top of a disk, or a server
LISTED = 100_000  # files of a folder among which a similar name is looked for
_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")  # a byte of a name that is not UTF-8


def image_path(base: Path, text: str, indices: dict[Path, TarIndex]) -> Path | TarMember | None:
    """Return the image file that a table names, or the member of a tar; None if there is none.

    Where the name as it stands is no file, blanks around it, backslashes in place of slashes, and
    the composed or decomposed form of accents (macOS writes the latter) are tried, and a suffix
    where it has none.

    Args:
        base: Folder that relative paths start from.
        text: Path in the table; "shards/a.tar/0001.jpg" is the file 0001.jpg in that tar.
        indices: See `member_at`.

    Raises:
        UsageError: if the tar that the path leads into is refused.
    """
    if len(text) > MAX_PATH:
        return None
    found = next((path for name in _spellings(text) if _is_file(path := base / name)), None)
    if found is None and ".tar" in text.lower():
        members = (member_at(base / name, indices) for name in _spellings(text))
        return next(filter(None, members), None)
    return found or _completed(base, text.strip())


def _completed(base: Path, text: str) -> Path | None:
    """Return the only image file that a path without suffix names, such as one of an id."""
    if not text or os.path.splitext(text)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
        return None
    suffixes = sorted({*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)})
    found = [path for suffix in suffixes if _is_file(path := base / f"{text}{suffix}")]
    same = {(path.name if os.sep == "/" else path.name.lower()): path for path in found}
    return found[0] if len(same) == 1 else None


def below_root(
    root: Path, texts: Sequence[str], indices: dict[Path, TarIndex]
) -> tuple[str, list[Path | TarMember]] | None:
    """Find images that a table names by paths of another machine, below a folder of this one.

    The same folders are left out of all paths, as few of them as possible, so that no two images
    become one.

    Args:
        root: Folder.
        texts: Paths in the table.
        indices: See `member_at`.

    Returns:
        What is left out, and the images; None if they are not all there, or a path is relative.
    """
    if not texts or not all(map(_ELSEWHERE.match, texts)):
        return None
    parts = [[part for part in re.split(r"[\\/]", text.strip()) if part] for text in texts]
    folders = zip(*(path[:-1] for path in parts), strict=False)
    common = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, folders)]
    for count in range(len(common) + 1):
        images = (image_path(root, "/".join(path[count:]), indices) for path in parts)
        found = list(takewhile(lambda image: image is not None, images))
        if len(found) == len(parts):
            return "/".join(common[:count]) or "/", [image for image in found if image is not None]
    return None


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


def absence(source: Path, base: Path, absent: list[str], total: int) -> str:
    """Return one sentence about the images that do not exist.

    Args:
        source: Table.
        base: Folder that relative paths start from.
        absent: Paths of missing images, at least one, as in the table.
        total: Number of its images.
    """
    first = absent[0]
    name = shown(first) if visible(first) != first or len(first) > 200 else first
    if re.match(r"[A-Za-z][A-Za-z0-9+]+://", first):
        way_out = "these are addresses; download the images, and write the paths of the files."
    elif (os.sep == "/" and _WINDOWS.match(first)) or (
        _ELSEWHERE.match(first) and len(absent) == total
    ):
        way_out = (
            "these are paths of another machine; give the folder that holds the images here with "
            "--root, or write paths relative to this file."
        )
    elif near := _near(base, first):
        way_out = f"{near} is there; write names as the files have them, with case and suffix."
    else:
        way_out = "paths are relative to this file's folder, or to --root."
    return (
        f"{visible(source)}: {len(absent)} of {total} images do not exist, first {name}; {way_out}"
    )


def _near(base: Path, text: str) -> str | None:
    """Return a file whose name differs from a path in case, or by its suffix; None if none does."""
    try:
        wanted = base / text.strip().replace("\\", "/")
        with os.scandir(wanted.parent) as entries:
            names = sorted(entry.name for entry in islice(entries, LISTED))
    except (OSError, ValueError):
        return None
    name = wanted.name.casefold()
    for near in (str.casefold, lambda other: Path(other).stem.casefold()):
        if found := next((other for other in names if near(other) == name), None):
            return visible(found)[:200]
    return None
