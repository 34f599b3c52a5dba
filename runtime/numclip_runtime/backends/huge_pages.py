"""Move a model's weights to huge pages of memory, once the model has proved to be used (Linux).

A run reads every weight once. In pages of 4 KiB that takes 22,000 address translations for a
ViT-B/32 in INT8, in pages of 2 MiB 43. Most systems give huge pages only on request
(`transparent_hugepage` is "madvise"), and an allocator's memory cannot be requested in advance.
Linux 6.1 can move existing memory (MADV_COLLAPSE); older kernels refuse, and nothing changes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Thread

AFTER = 20  # images; moving costs as much as 5 to 30 runs, in a thread of its own
SMALLEST_MAPPING = 16 << 20  # bytes; threads' stacks of 8 MiB are mostly empty
STEP = 16 << 20  # bytes per system call; `close` takes effect between two calls
MADV_COLLAPSE = 25

MAPS = Path("/proc/self/maps")
PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


class HugePages:
    """The memory that a model allocates while it is opened.

    Example:
        pages = HugePages()
        session = open_model()
        pages.opened()
        session.run(images)
        pages.ran(len(images))
    """

    def __init__(self) -> None:
        self._before = _writable()
        self._ranges: list[tuple[int, int]] = []
        self._images = 0
        self._thread: Thread | None = None
        self._stopped = False

    def opened(self) -> None:
        """Note the memory that was allocated since this object was made."""
        before = dict(self._before)
        for start, end in _writable():
            start = max(start, before.get(start, start))  # of a mapping that grew: the new part
            if end - start >= SMALLEST_MAPPING:
                self._ranges.append((start, end))

    def ran(self, images: int) -> None:
        """Count images; after `AFTER` of them, move the memory in a thread."""
        if self._images < AFTER:
            self._images += images
            if self._images >= AFTER and self._ranges and self._thread is None:
                self._thread = Thread(target=self._move, name="numclip-pages", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop: the memory is about to be freed."""
        self._stopped = True

    def _move(self) -> None:
        import ctypes  # 5 ms

        try:
            size = int(PAGE_SIZE.read_text())
        except (OSError, ValueError):
            return  # a kernel without huge pages
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start, end in self._ranges:
            start, end = -(-start // size) * size, end // size * size
            for place in range(start, end, STEP):
                if self._stopped:
                    return
                madvise(place, min(STEP, end - place), MADV_COLLAPSE)  # on failure, nothing moves


def _writable() -> list[tuple[int, int]]:
    """Return start and end of each private mapping without a file; empty outside Linux."""
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
