"""A folder of records that grows by whole files, and knows which pictures are done.

Each part has its name only once it is complete and on the disk, so a run that is killed loses what
it did since the last one: seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from numclip_runtime.errors import UsageError
from numclip_runtime.jobs.lock import LOCK, locked
from numclip_runtime.jobs.manifest import MANIFEST, Manifest
from numclip_runtime.jobs.part_files import (
    key_of,
    leave_out,
    marks_of,
    part_path,
    parts_in,
    remove_leftovers,
)
from numclip_runtime.replacing import make_folder
from numclip_runtime.results.records import Record, Writer, csv_cell, open_writer
from numclip_runtime.task import Task

# A part is complete after 1 % of the run's time, at least and at most these seconds: a kill loses
# that much, and a run of a day leaves 2,900 files
SHORTEST_PART_S, LONGEST_PART_S = 5.0, 30.0
PART_SHARE = 0.01
MOST_RECORDS = 50_000  # in a part


def check_folder(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder that a run cannot add its records to, before the work is done.

    Raises:
        UsageError: if it is a file, holds other files, or was begun by another kind of run.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; parts need a folder, such as {folder.stem}-parts/.")
    begun = Manifest.read(folder)
    if begun is not None:
        begun.check(manifest, folder)
    elif folder.is_dir() and any(_is_other(path.name) for path in folder.iterdir()):
        raise UsageError(
            f"{folder}: holds other files, and no {MANIFEST} of a run; give a new or empty folder."
        )


def _is_other(name: str) -> bool:
    return not name.startswith(".") and name != LOCK


@contextmanager
def open_parts(
    folder: Path, manifest: Manifest, task: Task, *, retry_failed: bool = False
) -> Iterator[Parts]:
    """Begin a folder of parts, or go on with one; what was written is kept when this ends.

    Args:
        folder: New, empty, or of an earlier run with the same manifest.
        manifest: Of this run.
        task: Of the model.
        retry_failed: Take pictures again whose record is an error; the new record replaces it.

    Raises:
        UsageError: see `check_folder`; or if another run writes there, or a part is damaged.
        OSError: if a part cannot be written.
    """
    check_folder(folder, manifest)
    make_folder(folder, folder)
    with locked(folder):
        check_folder(folder, manifest)  # another run may have begun it
        begun = Manifest.read(folder)
        if begun is None:
            begun = manifest
            manifest.write(folder)
        parts = Parts(folder, begun, task, retry_failed=retry_failed)
        try:
            yield parts
        finally:
            parts.flush()


class Parts:
    """The parts of a folder; made by `open_parts`, which keeps others out."""

    def __init__(
        self, folder: Path, begun: Manifest, task: Task, *, retry_failed: bool = False
    ) -> None:
        self.begun = begun  # manifest of the run that began the folder
        self.now = 0  # records that this run wrote
        self.skipped = 0  # pictures that `take` refused
        self._folder, self._task = folder, task
        self._known: set[str] = set()  # keys of the pictures that are done, or taken
        self._failed: dict[str, Path] = {}  # key of a picture whose record is an error -> its part
        self._replaced: dict[Path, set[str]] = {}  # records that newer ones replace
        self._last = 0  # number of the last part
        remove_leftovers(folder, begun.format)
        self._read()
        self._leave_out()
        self.before = self.done = len(self._known)  # pictures that have a record
        self.failed_before = len(self._failed)
        self._retried = set(self._failed) if retry_failed else set[str]()
        self._known -= self._retried
        self._file = ExitStack()
        self._writer: Writer | None = None  # of the part that is being written
        self._part = folder  # its path
        self._records = 0  # in it
        self._start_s = self._part_start_s = time.monotonic()

    @property
    def failed(self) -> int:
        """Pictures whose record is an error."""
        return len(self._failed)

    def take(self, path: str, frame: int | None = None) -> bool:
        """Return whether a picture is still to do, and count it as taken.

        Args:
            path: As its record will have it.
            frame: Index in the video; None: an image.
        """
        key = self._key(path, frame)
        if key in self._known:
            self.skipped += 1
            return False
        self._known.add(key)
        return True

    def has(self, path: str) -> bool:
        """Return whether a picture, or the beginning of a video, has a record or was taken."""
        return not self._known.isdisjoint((self._key(path, None), self._key(path, 0)))

    def write(self, record: Record) -> None:
        """Write one record of a picture that was taken; now and then this completes a part.

        Raises:
            OSError: if the disk is full or fails.
        """
        begun = self.begun
        if self._writer is None:
            self._last += 1
            self._part = part_path(self._folder, self._last, begun.format)
            opening = open_writer(
                self._part, begun.format, self._task, csv_safe=begun.csv_safe, sync=True
            )
            self._writer = self._file.enter_context(opening)
            self._records, self._part_start_s = 0, time.monotonic()
        self._writer.write(record)
        self._count(record)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Complete the part that is being written if it has its time or size.

        Raises:
            OSError: if the disk is full or fails.
        """
        now_s = time.monotonic()
        longest_s = min(max(SHORTEST_PART_S, PART_SHARE * (now_s - self._start_s)), LONGEST_PART_S)
        due = now_s - self._part_start_s >= longest_s
        if self._writer is not None and (due or self._records >= MOST_RECORDS):
            self.flush()

    def flush(self) -> None:
        """Complete the part that is being written, if there is one.

        Raises:
            OSError: if the disk is full or fails.
        """
        self._writer = None
        self._file.close()
        self._leave_out()

    def _key(self, path: str, frame: int | None) -> str:
        return key_of(csv_cell(path) if self.begun.csv_safe else path, frame)

    def _count(self, record: Record) -> None:
        key = self._key(record["path"], record.get("frame"))
        self._known.add(key)
        self._records += 1
        self.now += 1
        if key in self._retried:
            self._replaced.setdefault(self._failed.pop(key), set()).add(key)
            self._retried.remove(key)
        else:
            self.done += 1
        if "error" in record:
            self._failed[key] = self._part

    def _read(self) -> None:
        """Read which pictures are done, and which of them a killed `--retry-failed` left twice."""
        for number, part in parts_in(self._folder, self.begun.format):
            self._last = number
            for key, failed in marks_of(part):
                if key in self._failed:
                    self._replaced.setdefault(self._failed.pop(key), set()).add(key)
                self._known.add(key)
                if failed:
                    self._failed[key] = part

    def _leave_out(self) -> None:
        while self._replaced:
            leave_out(*self._replaced.popitem())
