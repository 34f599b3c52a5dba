"""Finding images and writing outputs."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from numclip_runtime.errors import UsageError

# What a folder is searched for. A file named directly is tried whatever its suffix.
IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm")
) | {".tif", ".tiff", ".webp"}


def find_images(inputs: Sequence[str]) -> list[str]:
    """Expand files, folders (recursive, sorted) and glob patterns into image paths.

    A path that does not exist is kept: it becomes one failed record, and others still run.

    Raises:
        UsageError: if a folder holds no image, cannot be read, or a pattern matches nothing.
    """
    found: list[str] = []
    for item in inputs:
        if os.path.isdir(item):  # noqa: PTH112 (pathlib raises on a name that is too long)
            images = sorted(_walk(Path(item)))
            if not images:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise UsageError(f"{item}: no images in this folder (looked for {kinds}).")
            found += images
        elif not os.path.exists(item) and glob.has_magic(item):  # noqa: PTH110
            # Path.glob refuses absolute patterns
            matches = sorted(filter(os.path.isfile, glob.glob(item, recursive=True)))  # noqa: PTH207
            if not matches:
                raise UsageError(f"{item}: the pattern matches no file.")
            found += matches
        else:
            found.append(item)
    return found


def _walk(folder: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise UsageError(f"{error.filename}: cannot read this folder ({error.strerror}).")

    for root, _, names in os.walk(folder, onerror=fail):
        for name in names:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield os.path.join(root, name)  # noqa: PTH118 (pathlib is 5x slower here)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it there on success, delete it on failure.

    A killed process leaves it, as `.NAME.XXXXXXXX.part.SUFFIX`: nobody reads it, and it may be
    deleted once no process writes there.

    Raises:
        UsageError: if the folder does not exist or cannot be written.
    """
    temporary = _temporary_beside(path)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Refuse a path that `atomic_path` would refuse, before the work that leads to it.

    Raises:
        UsageError: if the folder does not exist or cannot be written.
    """
    _temporary_beside(path).unlink()


def _temporary_beside(path: Path) -> Path:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file name.")
    if path.exists() and not path.is_file():  # replacing /dev/null would break the machine
        raise UsageError(f"{path}: is not a regular file; give a file name.")
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=f".part{path.suffix}"
        )
    except OSError as error:
        raise UsageError(f"{path}: cannot write there ({error.strerror}).") from None
    os.close(handle)
    return Path(name)


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under its name only when complete."""
    with (
        atomic_path(path) as temporary,
        # a path that is no UTF-8 becomes \udcXX, which JSON reads back
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, such as "No space left on device", name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
