"""Move a model's weights to huge pages of memory, once the model has proved to be used (Linux).

A run reads every weight once. In pages of 4 KiB that takes 22,000 address translations for a
ViT-B/32 in INT8, in pages of 2 MiB 43. Most systems give huge pages only on request
(`transparent_hugepage` is "madvise"), and an allocator's memory cannot be requested in advance.
Linux 6.1 can move existing memory (MADV_COLLAPSE); older kernels refuse, and nothing changes.
"""

from __future__ import annotations

from threading import Thread

from numclip_runtime.posix import collapse, huge_page_size, writable_mappings

AFTER = 20  # images; moving costs as much as 5 to 30 runs, in a thread of its own
SMALLEST_MAPPING = 16 << 20  # bytes; threads' stacks of 8 MiB are mostly empty
STEP = 16 << 20  # bytes per system call; `close` takes effect between two calls


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
        self._before = writable_mappings()
        self._ranges: list[tuple[int, int]] = []
        self._images = 0
        self._thread: Thread | None = None
        self._stopped = False

    def opened(self) -> None:
        """Note the memory that was allocated since this object was made."""
        before = dict(self._before)
        for start, end in writable_mappings():
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
        size = huge_page_size()
        if size is None:  # a kernel without huge pages
            return
        for start, end in self._ranges:
            start, end = -(-start // size) * size, end // size * size
            for place in range(start, end, STEP):
                if self._stopped:
                    return
                collapse(place, min(STEP, end - place))
