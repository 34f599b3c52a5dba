"""A text file that is valid after every write, also if the disk is full."""

from __future__ import annotations

from contextlib import suppress
from io import FileIO
from pathlib import Path

from numclip_runtime.files import naming


class WholeWrites:
    """A text file in UTF-8 into which each `write` goes in full, or not at all.

    If the disk is full, the part of a record that was written is cut off again, so that the records
    before it stay valid.

    Args:
        file: Unbuffered: a buffer would keep what could not be written.
        path: Named in errors.
    """

    encoding = "utf-8"

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = 0  # bytes, without the ending
        self.ending = ""  # always the last text of the file, so that nothing can fail at the end

    def write(self, text: str) -> int:
        """Write a text; a path that is not UTF-8 becomes \\udcXX, which JSON reads back."""
        content = text.encode("utf-8", "backslashreplace")
        with naming(self._path):
            try:
                self._put(content + self.ending.encode())
            except OSError:
                with suppress(OSError):  # the disk has room for what it held before
                    self._put(self.ending.encode() if self._size else b"")
                    self._file.truncate()
                raise
        self._size += len(content)
        return len(text)

    def replace(self, text: str) -> None:
        """Make this the only text, without the ending."""
        self._size, self.ending = 0, ""
        self.write(text)

    def _put(self, content: bytes) -> None:
        self._file.seek(self._size)
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""
