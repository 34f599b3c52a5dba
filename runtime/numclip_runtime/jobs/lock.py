"""A lock on a folder, which the system takes away when its process ends, however that happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numclip_runtime.errors import UsageError
from numclip_runtime.posix import lock_file

LOCK = "_lock"  # readers of tables leave it out


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this is open. The file stays: removing it would race.

    A file system without locks, as some network drives are, is used without one.

    Raises:
        UsageError: if another run has it, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(f"{folder}: cannot write there ({error.strerror}).") from None
    try:
        if not lock_file(handle):
            raise UsageError(
                f"{folder}: another run writes there; wait for its end, or give another folder."
            )
        yield
    finally:
        os.close(handle)
