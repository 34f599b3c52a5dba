"""Find the pictures of a folder that are finished, and not done yet; each look costs little."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from numclip_runtime.console import say
from numclip_runtime.images.folder import is_image_name, is_rubbish

# A file that has not changed for so long is finished at the first look: it was moved here, or was
# here before. A younger one is looked at twice.
SETTLED_S = 2.0
# Waits before a file that cannot be read is read again, unless it changes: half a minute is more
# than a copy over a network stands still
RETRIES_S = (2.0, 8.0, 30.0)
MOST_WAITING = 10_000  # files that are held in memory; others wait for a later look
MOST_READY = 1_000  # of one look, so that a backlog leaves room for new files
# A folder is listed again only where its time has changed, or after so long: a file system may
# keep times of 2 seconds (FAT), or an old one for a while (NFS)
LISTED_AGAIN_S = 60.0
COARSE_TIME_S = 5.0


class FileState(NamedTuple):
    """A file's size and the time of its last change: if one differs, it is being written."""

    size: int
    mtime_ns: int


@dataclass(slots=True)
class _Waiting:
    """A file that may not be finished."""

    stamp: FileState | None = None  # at the last look; None: not looked at
    since_s: float = 0.0  # clock at which the stamp was first seen
    tries: int = 0  # that failed with this stamp
    due_s: float = 0.0  # clock before which it is not tried


@dataclass(slots=True)
class _Listed:
    """A folder whose entries are known, as long as its time stays."""

    mtime_ns: int
    at_s: float  # clock
    folders: list[str] = field(default_factory=list)


class FolderWatch:
    """The pictures in a folder and those below.

    Hidden files and folders are left out, as in a search; so are files that have a record.

    Args:
        folder: To look at.
        done: Returns whether a path has a record.
        poll_s: Time between two looks at a file that is being written, seconds.
        clock: Monotonic, seconds.
    """

    def __init__(
        self,
        folder: str,
        done: Callable[[str], bool],
        *,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self._done, self._poll_s, self._clock = folder, done, poll_s, clock
        self._waiting: dict[str, _Waiting] = {}
        self._listed: dict[str, _Listed] = {}
        self._said: set[str] = set()  # folders whose errors were said
        self._away = False  # the folder was not there at the last look

    def look(self) -> list[str]:
        """Return up to `MOST_READY` finished files, which stay until `drop` or `failed`."""
        if not self._is_there():
            return []
        self._list_all()
        now, ready = self._clock(), []
        for path in list(self._waiting):
            if self._is_finished(path, now):
                ready.append(path)
                if len(ready) == MOST_READY:
                    break
        return ready

    def drop(self, path: str) -> None:
        """Forget a file that has its record, or is gone."""
        self._waiting.pop(path, None)

    def failed(self, path: str) -> bool:
        """Note that a file could not be read; return whether that is final.

        Where the whole folder is away, that was no try.
        """
        waiting = self._waiting[path]
        if not os.path.isdir(self.folder):  # noqa: PTH112
            return False
        if waiting.tries == len(RETRIES_S):
            return True
        waiting.due_s = self._clock() + RETRIES_S[waiting.tries]
        waiting.tries += 1
        return False

    def is_gone(self, path: str) -> bool:
        """Return whether a file was deleted, and not the whole folder with it for a while."""
        return not os.path.lexists(path) and os.path.isdir(self.folder)  # noqa: PTH112

    def _is_there(self) -> bool:
        try:
            os.scandir(self.folder).close()
        except OSError as error:
            if not self._away:
                say(f"Note: {self.folder}: cannot be read ({error.strerror}); waiting for it.")
            self._away = True
            self._listed.clear()
            return False
        if self._away:
            say(f"Note: {self.folder}: is there again.")
        self._away = False
        return True

    def _list_all(self) -> None:
        seen, folders = set[tuple[int, int]](), [self.folder]
        known = set(self._listed)
        while folders:
            folder = folders.pop()
            try:
                found = os.stat(folder)  # noqa: PTH116
                identity = (found.st_dev, found.st_ino)
                if found.st_ino and identity in seen:  # a link to a folder above
                    continue
                seen.add(identity)
                folders += self._list(folder, found.st_mtime_ns)
            except OSError as error:
                self._listed.pop(folder, None)
                if not isinstance(error, FileNotFoundError) and folder not in self._said:
                    self._said.add(folder)
                    say(f"Note: {folder}: cannot be read ({error.strerror}); its files wait.")
            known.discard(folder)
        for folder in known:
            self._listed.pop(folder, None)

    def _list(self, folder: str, mtime_ns: int) -> list[str]:
        """Take in the new files of a folder, and return the folders in it."""
        now, before = self._clock(), self._listed.get(folder)
        if before and before.mtime_ns == mtime_ns and now - before.at_s < LISTED_AGAIN_S:
            return before.folders
        listed = _Listed(mtime_ns, now)
        complete = time.time() - mtime_ns / 1e9 > COARSE_TIME_S
        for entry in _entries(folder):
            if entry.is_dir():
                listed.folders.append(entry.path)
            elif is_image_name(entry.name) and entry.path not in self._waiting:
                if len(self._waiting) >= MOST_WAITING:
                    complete = False
                elif not self._done(entry.path) and entry.is_file():
                    self._waiting[entry.path] = _Waiting()
        if complete:
            self._listed[folder] = listed
        else:
            self._listed.pop(folder, None)
        return listed.folders

    def _is_finished(self, path: str, now: float) -> bool:
        waiting = self._waiting[path]
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError:  # renamed, or deleted before it was finished
            self.drop(path)
            return False
        if not stat.S_ISREG(found.st_mode):
            self.drop(path)
            return False
        stamp = FileState(found.st_size, found.st_mtime_ns)
        if stamp != waiting.stamp:
            first = waiting.stamp is None
            waiting.stamp, waiting.since_s = stamp, now
            waiting.tries, waiting.due_s = 0, 0.0
            return first and stamp.size > 0 and time.time() - found.st_mtime > SETTLED_S
        return now - waiting.since_s >= self._poll_s and now >= waiting.due_s


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_rubbish(entry.name))
