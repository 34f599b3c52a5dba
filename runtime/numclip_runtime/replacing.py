"""What a file takes over from the one it replaces, even its place; and the folder of a new one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from numclip_runtime.errors import UsageError
from numclip_runtime.posix import take_owner

# Renaming fails so where a file can be written, though not replaced
WRITE_INTO = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS)


def take_permissions(temporary: Path, target: Path) -> None:
    """Give the new file the owner and permissions of the one it replaces."""
    with suppress(OSError):  # none there; or a file system without permissions
        before = target.stat()
        take_owner(temporary, before)
        temporary.chmod(stat.S_IMODE(before.st_mode))


def written_into(target: Path, temporary: Path, error: OSError) -> bool:
    """Write a new file's content into an existing one that cannot be replaced by it.

    Returns:
        Whether that was possible. The reasons: the file is mounted by itself, or the folder lets
        only owners replace their files.
    """
    if error.errno not in WRITE_INTO:
        return False
    try:
        with temporary.open("rb") as source, target.open("r+b") as file:
            while block := source.read(1 << 20):
                file.write(block)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def make_folder(path: Path, folder: Path) -> list[Path]:
    """Make the folder of an output, and those above it.

    Args:
        path: The output, for messages.
        folder: Its folder.

    Returns:
        The folders that were missing, the lowest first.

    Raises:
        UsageError: if they cannot be made.
    """
    if folder.exists():
        return []
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot make this folder ({error.strerror}).") from None
    return missing


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that `make_folder` made, unless something is in them by now."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
