"""Files that are made once and used by later runs: full-size models, plain exports."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from numclip_runtime.errors import UsageError


def cache_folder() -> Path:
    """Return where this user's programs keep what they can make again."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        base = Path(given)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "numclip" / "benchmarks"


def cached(name: str, make: Callable[[Path], None], *, cache: Path | None = None) -> Path:
    """Return a folder of the cache, made if it is not there.

    It appears under its name only when complete: an interrupted run leaves nothing that a later
    one would take for whole. Of two runs that make it at once, the first to finish wins.

    Args:
        name: Of the folder: says all that its content depends on.
        make: Fills an empty folder.
        cache: Parent folder; None: `cache_folder`.

    Raises:
        UsageError: if the cache cannot be written.
    """
    parent = cache_folder() if cache is None else cache
    folder = parent / name
    if folder.is_dir():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    except OSError as error:
        raise UsageError(
            f"{parent}: cannot keep models there ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder that can be written."
        ) from None
    try:
        make(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
