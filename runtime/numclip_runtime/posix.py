"""All that only POSIX systems or only Linux have, and the next best thing for the others.

No other module of the runtime names these functions (`tests/runtime/test_without_posix.py`), so
this page is the difference between Linux, macOS and Windows.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

# Signals that ask a process to end: Ctrl-C, `kill` and `docker stop`, a closed terminal
STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# For `os.open`: do not wait for the other end of a pipe
WITHOUT_WAITING: int = getattr(os, "O_NONBLOCK", 0)
MAPS = Path("/proc/self/maps")
MOUNTS = Path("/proc/self/mountinfo")
PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
MADV_COLLAPSE = 25
_SEEKING = threading.Lock()
CHILD_SIGNAL: Any = getattr(signal, "SIGCHLD", None)  # a child process has ended


def affinity() -> list[int] | None:
    """Return the numbers of the cores that this process may use; None where that is not known."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def most_open_files() -> int | None:
    """Return how many files this process may have open; None: no limit, or not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if files == resource.RLIM_INFINITY else files


def signal_main_thread(signum: int) -> None:
    """Send a signal to the main thread; where there is `pthread_kill`, what it waits for ends."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signum)
    else:
        signal.raise_signal(signum)


def call_in_forked_child(function: Callable[[], object]) -> None:
    """Have a function called in each child that `fork` makes; nothing where there is no `fork`."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def check_room_for_thread() -> None:
    """Refuse a thread that would lack memory: Python waits for ever for one that dies at birth.

    The room is for its stack and its first objects; 8 us.

    Raises:
        MemoryError: if there is less. Only Linux is asked.
    """
    if sys.platform != "linux":
        return
    try:
        import mmap
        import resource
    except ImportError:
        return
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    room = (stack if 0 < stack < 1 << 30 else 8 << 20) + (2 << 20)  # unlimited is 2 MB
    try:
        mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError("no room for another thread") from None


def sync_folder(folder: Path) -> None:
    """Let a name that was given in a folder survive a power cut, where a folder can be synced."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):  # some network file systems refuse
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def take_owner(path: Path, owner: os.stat_result) -> None:
    """Give a file the owner and group that another has, if this process may do so."""
    own = path.stat()
    if hasattr(os, "chown") and (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
        with suppress(OSError):
            os.chown(path, owner.st_uid, owner.st_gid)


def read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """Read bytes at a place of an open file, which other threads and processes read as well.

    Returns:
        `size` bytes, or what there is up to the end of the file.
    """
    if hasattr(os, "pread"):
        content = os.pread(file.fileno(), size, offset)
        while 0 < len(content) < size:  # 2 GB at a time
            more = os.pread(file.fileno(), size - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content
    with _SEEKING:
        file.seek(offset)
        return file.read(size)


def place_of_open_file(handle: int) -> str | None:
    """Return a name under which this very file can be opened again; None outside Linux."""
    place = f"/proc/self/fd/{handle}"
    return place if os.path.exists(place) else None  # noqa: PTH110


def lock_file(handle: int) -> bool:
    """Lock an open file for this process until it is closed; return whether nobody else has it.

    True as well where the file system or the system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_file_on_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _lock_file_on_windows(handle: int) -> bool:
    try:
        msvcrt: Any = import_module("msvcrt")
    except ImportError:
        return True
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EDEADLK)
    return True


def is_mount_point(path: Path) -> bool:
    """Return whether a file is mounted by itself (`docker run -v FILE:FILE`), if that is known.

    Its name belongs to the mount: nothing can be renamed to it.
    """
    place = os.path.realpath(path).encode("utf-8", "surrogateescape")
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    for line in lines:
        mounted = line.split(b" ", 5)[4]  # blanks and the like are written as \040
        for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
            mounted = mounted.replace(code, bytes([int(code[1:], 8)]))
        if mounted == place:
            return True
    return False


def writable_mappings() -> list[tuple[int, int]]:
    """Return start and end of each private memory mapping without a file; empty outside Linux."""
    if sys.platform != "linux":
        return []
    try:
        text = MAPS.read_text("utf-8", "replace")  # names of mapped files may be any bytes
    except OSError:  # a chroot without /proc
        return []
    found = []
    for line in text.splitlines():
        place, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and (not name or name == ["[heap]"]):
            start, end = (int(number, 16) for number in place.split("-"))
            found.append((start, end))
    return found


def huge_page_size() -> int | None:
    """Return the bytes of a huge page of memory; None where there are none."""
    try:
        return int(PAGE_SIZE.read_text()) or None
    except (OSError, ValueError):
        return None


def collapse(start: int, size: int) -> None:
    """Move memory to huge pages (Linux 6.1); on failure, nothing moves."""
    import ctypes  # 5 ms

    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    madvise(start, size, MADV_COLLAPSE)
