"""What a file takes over from the one it replaces: owner, permissions, or even the place itself."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

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
