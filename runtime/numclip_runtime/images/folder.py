"""What a folder contains, for prediction and training; and what a pattern matches."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from numclip_runtime.console import say
from numclip_runtime.errors import UsageError
from numclip_runtime.images.formats import (
    AVIF_WAY_OUT,
    HEIF_SUFFIXES,
    IMAGE_SUFFIXES,
    open_source,
    reads_avif,
)
from numclip_runtime.images.signatures import FOREIGN, signature

# Pictures and videos that a search leaves out, and says so
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mef .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl"
    " .sr2 .srf .srw"
)
_OTHER = (
    ".3gp .ai .avi .blp .cur .dcm .dds .djvu .emf .eps .exr .fit .fits .flif .flv .hdr .icns .ico"
    " .jxl .jxr .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .pam .pcx .pdf .pfm .ps .psb .psd .qoi"
    " .ras .sgi .svg .svgz .tga .vob .wdp .webm .wmf .wmv .x3f .xbm .xcf .xpm"
)
RAW_SUFFIXES = frozenset(_RAW.split())
LEFT_OUT_SUFFIXES = RAW_SUFFIXES | frozenset(_OTHER.split())
# Folders of thumbnails, copies and deleted files, made by macOS, Windows, Synology and QNAP
RUBBISH = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "@recycle", "@__thumb", "lost+found")
) | {"system volume information", "thumbs.db", "desktop.ini", "#snapshot"}
# A part "**" of a pattern
_SEPARATOR = r"[/\\]" if os.sep == "\\" else "/"
_STARS = re.compile(rf"(?:(?<={_SEPARATOR})|^)(\*\*)(?:{_SEPARATOR}+|$)")

Unreadable: TypeAlias = Callable[[OSError], None]


class LeftOut(Counter[str]):
    """The pictures that a search did not take: suffix, or "" without one -> how many."""

    def __str__(self) -> str:
        """One sentence with the way out; "" if nothing was left out."""
        if not self:
            return ""
        kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in self.most_common()]
        ways_out = []
        if self.keys() & HEIF_SUFFIXES:
            ways_out.append("pip install 'numclip[heif]'")
        if ".avif" in self:
            ways_out.append(AVIF_WAY_OUT)
        if "" in self:
            ways_out.append("name files without a suffix directly, or by a pattern")
        ways_out += [
            f"{kind[1:].upper()}: {FOREIGN[kind[1:].upper()][1]}"
            for kind in (".jxl", ".psd", ".pdf", ".svg")
            if kind in self
        ]
        if self.keys() & RAW_SUFFIXES:
            ways_out.append(f"raw photos: {FOREIGN['RAW'][1]}")
        return f"left out: {', '.join(kinds)}" + "".join(f"; {way_out}" for way_out in ways_out)


def say_left_out(left_out: LeftOut) -> None:
    """Print to stderr what a search did not take, if anything."""
    if left_out:
        say(f"Note: {left_out}.")


def find_images(
    inputs: Sequence[str],
    unreadable: Unreadable | None = None,
    left_out: LeftOut | None = None,
) -> list[str]:
    """Expand files, folders (recursive, sorted) and glob patterns into image paths.

    A path that does not exist is kept: it becomes one failed record, and others still run.

    Args:
        inputs: Files, folders, patterns.
        unreadable: Called with the error of each folder that cannot be read, whose path is then
            returned as well. None: such a folder is an error.
        left_out: Counts the pictures in folders that are of other kinds. None: they are said on
            stderr.

    Raises:
        UsageError: if a folder contains no image or cannot be read, or a pattern matches nothing.
    """
    found: list[str] = []
    all_others = LeftOut() if left_out is None else left_out
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
            others = LeftOut()
            images = sorted([*_walk(item, note, others), *failed])
            if not images:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                rest = f"; {others}" if others else ""
                raise UsageError(f"{item}: no images in this folder (looked for {kinds}){rest}.")
            found += images
            all_others.update(others)
        elif not os.path.exists(item) and glob.has_magic(item):  # noqa: PTH110
            matches = sorted({*_matches(item, note), *failed})
            if not matches:
                raise UsageError(f"{item}: the pattern matches no file.")
            found += matches
        else:
            found.append(item)
    if left_out is None:
        say_left_out(all_others)
    return found


def is_rubbish(name: str) -> bool:
    """Return whether an entry of a folder is hidden, or a system's own; no search goes there."""
    return name.startswith(".") or name.lower() in RUBBISH


def is_image_name(name: str) -> bool:
    """Return whether a search takes a file, judged by its suffix."""
    suffix = _suffix(name)
    if suffix == ".avif":
        return reads_avif()
    return suffix in IMAGE_SUFFIXES or (
        suffix in HEIF_SUFFIXES and find_spec("pillow_heif") is not None
    )


def _suffix(name: str) -> str:
    start = name.rfind(".")
    return name[start:].lower() if start > 0 else ""


def _walk(folder: str, unreadable: Unreadable, left_out: LeftOut) -> Iterator[str]:
    """Yield the images in a folder and those below, each folder once however many links it has.

    Folders come before links to them, so an image has the name without links if there is one.
    """
    seen: set[object] = set()
    folders, links = [folder], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
        root = folders.pop() if folders else links.pop()
        try:
            identity = _identity(root)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(root) as entries:
                for entry in entries:
                    if is_rubbish(entry.name):
                        continue
                    # a name alone tells files from folders, without asking the system again
                    if entry.is_dir():
                        (links if entry.is_symlink() else folders).append(entry.path)
                    elif is_image_name(entry.name):
                        if not _is_special(entry):
                            yield entry.path
                    elif _is_picture(entry):
                        left_out[_suffix(entry.name)] += 1
        except OSError as error:
            unreadable(error if error.filename else OSError(error.errno, error.strerror, root))


def _identity(folder: str) -> object:
    found = os.stat(folder)  # noqa: PTH116 (pathlib is slower)
    # some network drives of Windows number no files
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(folder)


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a pipe, socket or device, which would make its reader wait."""
    if entry.is_file():
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False  # a dead link: one failed record


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """Return whether a file that is not taken is a picture; without a suffix by its content."""
    if suffix := _suffix(entry.name):
        return suffix in LEFT_OUT_SUFFIXES or suffix in HEIF_SUFFIXES or suffix == ".avif"
    if not entry.is_file():
        return False
    try:
        with open_source(entry.path) as file:
            kind = signature(file.read(512))
    except OSError:
        return False
    return bool(kind) and kind not in FOREIGN


def _matches(pattern: str, unreadable: Unreadable) -> Iterator[str]:
    """Yield the files that a pattern matches, without rubbish that it does not name.

    `**` is any folders, without following links: `glob` follows them, and two links to their own
    folder turn `**` into 2^40 paths.
    """
    before, stars, after = _STARS.split(pattern, 1) if _STARS.search(pattern) else (pattern, "", "")
    if not stars:
        # Path.glob refuses absolute patterns
        for path in glob.iglob(pattern):  # noqa: PTH207
            if os.path.isfile(path) and _is_named(path, pattern):  # noqa: PTH113
                yield path
        return
    for base in glob.glob(before) if before else [""]:  # noqa: PTH207
        for root, folders, _ in os.walk(base or os.curdir, onerror=unreadable):
            folders[:] = [name for name in folders if not is_rubbish(name)]
            inside = os.path.join(root, "")  # noqa: PTH118 (keeps "./" where it was given)
            inside = inside if base else inside.removeprefix(os.path.join(os.curdir, ""))  # noqa: PTH118
            yield from _matches(glob.escape(inside) + (after or "*"), unreadable)


def _is_named(path: str, pattern: str) -> bool:
    """Return whether no part of a match is rubbish, unless the pattern names it."""
    parts = Path(path).parts
    return not any(part.lower() in RUBBISH for part in parts) or all(
        part.lower() not in RUBBISH or part in pattern.replace("[", "").replace("]", "")
        for part in parts
    )
