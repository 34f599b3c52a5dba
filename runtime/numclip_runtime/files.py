"""Reading regular files within limits, and writing outputs that appear only when complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from numclip_runtime.errors import UsageError
from numclip_runtime.posix import WITHOUT_WAITING, is_mount_point, sync_folder
from numclip_runtime.replacing import make_folder, remove_empty, take_permissions, written_into
from numclip_runtime.signals import signals_held


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes; a pipe, socket or device would make its reader wait.

    Raises:
        OSError: if it cannot be opened, or is a folder, pipe, socket or device; it names the file.
    """
    # A device is not opened at all: opening alone can have an effect. What passes is asked again
    # once it is open, without waiting for a pipe that took the name meanwhile.
    _require_regular(os.stat(path).st_mode, path)  # noqa: PTH116
    flags = getattr(os, "O_BINARY", 0) | WITHOUT_WAITING
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
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, delete it on failure.

    An existing file is replaced as a whole and keeps its permissions and, if possible, its owner; a
    link stays, and its target is replaced. A file that is mounted by itself, and so cannot be
    replaced, gets the new content. If the last step fails in another way, the temporary file stays,
    and the error names it.

    Missing folders above it are made, and removed again on failure. A killed process leaves the
    temporary file, as `.NAME.XXXXXXXX.part.SUFFIX`: it is never read, and may be
    deleted once no process writes there.

    Args:
        path: Final name.
        sync: Wait until file and name are on the disk, so that they survive a power cut: for
            models, which cost hours. Records and pages are not synced: a run can be repeated, and
            the wait would be longer than the run.

    Raises:
        UsageError: if the folder cannot be made or written.
        OSError: of the system; it names `path`, not the temporary file.
    """
    target = _target(path)
    temporary, discard, made = None, True, list[Path]()
    try:
        with signals_held():  # else one between the two would leave the file
            made = make_folder(path, target.parent)
            temporary = _temporary_beside(path, target)
        with _named(temporary, path):
            yield temporary
            if sync:
                with temporary.open("r+b") as file:
                    os.fsync(file.fileno())
            take_permissions(temporary, target)
            try:
                temporary.replace(target)
                discard = False
            except OSError as error:
                discard = written_into(target, temporary, error)
                if not discard:
                    reason = f"{error.strerror}; the new content is kept in {temporary}"
                    raise OSError(error.errno, reason, str(path)) from None
            if sync:
                sync_folder(target.parent)
    finally:
        if discard:
            with signals_held():
                if temporary is not None:
                    _discard(temporary, path)
                remove_empty(made)


def require_writable(path: Path) -> None:
    """Refuse a path that `atomic_path` would refuse, before the work for it is done.

    Raises:
        UsageError: if the folder cannot be made or written.
    """
    target = _target(path)
    with signals_held():
        made = make_folder(path, target.parent)
        try:
            _discard(_temporary_beside(path, target), path)
        finally:
            remove_empty(made)


def _discard(temporary: Path, path: Path) -> None:
    """Delete a temporary file; if that fails, the error says that it stays, and why."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError as error:
        before = error.__context__  # the error that ended the writing, if any
        if before is not None and not isinstance(before, OSError):
            return  # such as a signal: its own message counts
        reasons = [str(e.strerror or e) for e in (before, error) if isinstance(e, OSError)]
        reason = f"{'; '.join(reasons)}; the temporary file {temporary} stays"
        raise OSError(error.errno, reason, str(path)) from None


def refuse_overwriting(
    output: Path, kept: Iterable[str | os.PathLike[str] | int], what: str
) -> None:
    """Refuse an output that is one of the files that a run reads or writes otherwise.

    Two names may be one file: links, folders mounted twice, a file system that ignores case.

    Args:
        output: File to be written.
        kept: Files that must stay as they are; names, or numbers of open files.
        what: They are, for people: "an input".

    Raises:
        UsageError: naming both.
    """
    try:
        mine = _target(output).stat()
    except OSError:  # there is nothing to lose
        return
    for path in kept:
        try:
            found = os.stat(path)  # noqa: PTH116 (pathlib raises on some names)
        except (OSError, ValueError):
            continue
        if os.path.samestat(mine, found):
            name = "on standard input" if isinstance(path, int) else os.fspath(path)
            raise UsageError(f"{output}: is also {what}, {name}; give another name.")


def refuse_twice(outputs: Mapping[str, Path | None]) -> None:
    """Refuse two outputs that would be one file.

    Args:
        outputs: By their options; all must be writable, see `require_writable`.

    Raises:
        UsageError: naming both options.
    """
    given = [(option, path) for option, path in outputs.items() if path is not None]
    for index, (option, path) in enumerate(given):
        for other, second in given[:index]:
            if _same_place(path, second):
                raise UsageError(f"{path}: {other} and {option} name the same file.")


def _same_place(first: Path, second: Path) -> bool:
    a, b = (Path(os.path.realpath(path)) for path in (first, second))
    if a == b:
        return True
    if a.exists() and b.exists():
        return a.samefile(b)
    try:
        if a.name.casefold() != b.name.casefold() or not a.parent.samefile(b.parent):
            return False
    except FileNotFoundError:  # a folder that is made when the file is written
        return False
    # of two names that differ in case alone, a file system that ignores case has one
    with signals_held():
        temporary = _temporary_beside(first, a)
        same = temporary.with_name(temporary.name.swapcase()).exists()
        _discard(temporary, first)
    return same


def _target(path: Path) -> Path:
    """Return the file that a name stands for: of a link, its target, which may not exist yet."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise UsageError(f"{path}: is a link that leads back to itself; give a file name.")
    return target


def _temporary_beside(path: Path, target: Path) -> Path:
    """Create an empty file beside `target`, with the permissions of a new file.

    Where the folder takes no new file and the file itself can be written, as with a container's
    `--read-only -v FILE:FILE`, it is made in the system's folder for temporary files.
    """
    if target.is_dir():
        raise UsageError(f"{path}: is a folder; give a file name.")
    exists = target.exists()
    if exists and not target.is_file():  # replacing /dev/null would break the machine
        raise UsageError(f"{path}: is not a regular file; give a file name.")
    if exists and is_mount_point(target) and not os.access(target, os.W_OK):
        raise UsageError(f"{path}: cannot write there (the file is mounted read-only).")
    flags, folder = os.O_CREAT | os.O_EXCL | os.O_WRONLY, target.parent
    while True:
        # a name may have 255 bytes, of which a character takes up to 4
        name = f".{target.stem[:30]}.{os.urandom(4).hex()}.part{target.suffix[:20]}"
        temporary, handle = folder / name, None
        try:
            # The system takes the umask off. What replaces a private file is never public.
            handle = os.open(temporary, flags, 0o600 if exists else 0o666)
            os.close(handle)
        except FileExistsError:
            continue
        except OSError as error:
            if handle is not None:  # closing it failed: a network drive, or a quota
                _discard(temporary, path)
            elif exists and folder == target.parent and os.access(target, os.W_OK):
                import tempfile  # 3 ms

                folder = Path(tempfile.gettempdir())
                continue
            raise UsageError(f"{path}: cannot write there ({error.strerror}).") from None
        return temporary


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Let errors name the file that the user knows, in place of none or of the temporary one."""
    try:
        with naming(path):
            yield
    except OSError as error:
        if error.filename is None or os.fspath(error.filename) != str(temporary):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic_text(path: Path, *, sync: bool = False) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under its name only when complete; see `atomic_path`."""
    with atomic_path(path, sync=sync) as temporary, open_text(temporary) as file:
        yield file


def open_text(path: Path) -> IO[str]:
    """Open a text file for writing UTF-8; a path that is not becomes \\udcXX, as JSON reads it."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


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
    """Return the SHA-256 of a regular file, in hexadecimal."""
    with naming(path), open_regular(path) as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of what an open file holds from its position on, in hexadecimal."""
    import hashlib  # 3 ms

    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
