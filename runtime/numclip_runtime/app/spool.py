"""Texts that wait on the disk, so that memory stays flat over any number of them."""

from __future__ import annotations

import tempfile
from array import array
from contextlib import suppress
from pathlib import Path


class Spool:
    """Texts kept in a nameless file, to be read back in any order.

    Args:
        folder: The file's disk. Not the system's folder for temporary files: that may be memory.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Add a text."""
        content = text.encode("utf-8", "backslashreplace")
        self._file.seek(self._ends[-1])
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))

    def read(self, index: int) -> str:
        """Return the text of an index."""
        start, end = self._ends[index], self._ends[index + 1]
        self._file.seek(start)
        return self._file.read(end - start).decode()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def close(self) -> None:
        """Delete the file."""
        with suppress(OSError):  # a full disk: what is left in the buffer cannot be written
            self._file.close()
