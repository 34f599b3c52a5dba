"""The folder of a bundle: it appears whole, and replaces nothing but an older bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numclip_runtime import ModelError, UsageError
from numclip_runtime.model_files.bundle import read_bundle
from numclip_runtime.model_files.given import is_bundle
from numclip_runtime.posix import is_mount_point, sync_folder
from numclip_runtime.replacing import make_folder, remove_empty, take_permissions
from numclip_runtime.signals import signals_held


def refuse_folder(folder: Path) -> None:
    """Refuse a folder that cannot become a bundle, or that holds anything else than an older one.

    Raises:
        UsageError: naming what is in the way.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file; --bundle takes a folder.")
    if is_mount_point(folder):
        raise UsageError(f"{folder}: is mounted there; give a folder inside it, {folder}/bundle.")
    try:
        own = set(read_bundle(folder).files) if is_bundle(folder) else set()
    except ModelError as error:
        raise UsageError(f"{str(error).rstrip('.')}; or choose another folder.") from None
    if others := sorted(path.name for path in folder.iterdir() if path not in own):
        raise UsageError(
            f"{folder}: holds {others[0]!r}, which is not of a bundle and would be lost; choose "
            "another folder, or move it."
        )


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, and put it there on success; else delete it.

    An older bundle is moved aside and then deleted. A process that is killed leaves the new folder,
    as `.NAME.XXXXXXXX.part`, or the older one, as `.NAME.XXXXXXXX.old`; neither is ever read.

    Args:
        folder: Final name; of a link, the folder that it leads to.

    Raises:
        UsageError: if it cannot be made, or see `refuse_folder`.
        OSError: of the system; it names `folder`.
    """
    refuse_folder(folder)
    target = Path(os.path.realpath(folder))
    stem = f".{target.name[:30]}.{os.urandom(4).hex()}"
    temporary, old = target.with_name(f"{stem}.part"), target.with_name(f"{stem}.old")
    with signals_held():
        made = make_folder(folder, target.parent)
        try:
            temporary.mkdir()
        except OSError as error:
            remove_empty(made)
            raise UsageError(f"{folder}: cannot write there ({error.strerror}).") from None
    try:
        yield temporary
        with signals_held():
            refuse_folder(folder)  # again: an export takes minutes
            _put(temporary, target, old, folder)
    finally:
        with signals_held():
            for leftover in (temporary, old):
                shutil.rmtree(leftover, ignore_errors=True)
            remove_empty(made)


def _put(temporary: Path, target: Path, old: Path, folder: Path) -> None:
    try:
        if target.exists():
            take_permissions(temporary, target)
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    sync_folder(target.parent)
