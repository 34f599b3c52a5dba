"""Reading regular files within limits, and writing outputs that appear only when complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from numclip_runtime.errors import UsageError


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes; a pipe, socket or device would make its reader wait.

    Raises:
        OSError: if it cannot be opened, or is a folder, pipe, socket or device; it names the file.
    """
    # A device is not opened at all: opening alone can have an effect. What passes is asked again
    # once it is open, without waiting for a pipe that took the name meanwhile.
    _require_regular(os.stat(path).st_mode, path)  # noqa: PTH116
    flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        _require_regular(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a pipe, socket or device, not a file", os.fspath(path))


def read_limited(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        OSError: as `open_regular`.
        UsageError: if the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"{os.fspath(path)}: is larger than {limit:,} bytes, the limit here.")
    return content


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, delete it on failure.

    A killed process leaves it, as `.NAME.XXXXXXXX.part.SUFFIX`: it is never read, and may be
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
    """Refuse a path that `atomic_path` would refuse, before the work for it is done.

    Raises:
        UsageError: if the folder does not exist or cannot be written.
    """
    _temporary_beside(path).unlink()


def _temporary_beside(path: Path) -> Path:
    import tempfile  # 3 ms of every start

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
        # a path that is not UTF-8 becomes \udcXX, which JSON reads back
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file to an OSError that names none, such as "No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    import hashlib  # 3 ms

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
