"""The pictures of a watched folder: finished ones, each once, and what a look costs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from numclip_runtime.app.watching import folder_watch
from numclip_runtime.app.watching.folder_watch import RETRIES_S, FolderWatch


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def done() -> set[str]:
    return set()


@pytest.fixture
def watch(tmp_path: Path, clock: Clock, done: set[str]) -> FolderWatch:
    (tmp_path / "in").mkdir()
    return FolderWatch(str(tmp_path / "in"), done.__contains__, poll_s=1.0, clock=clock)


def write(path: Path, content: bytes = b"picture", *, age_s: float = 0.0) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return str(path)


def test_a_file_that_grows_waits(watch: FolderWatch, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.jpg"
    for size in (1, 2, 3):
        write(path, b"x" * size)
        assert watch.look() == []
        clock.now += 1
    assert watch.look() == [str(path)]


def test_a_look_too_soon_is_none(watch: FolderWatch, clock: Clock, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.jpg")
    assert watch.look() == []
    clock.now += 0.5
    assert watch.look() == []
    clock.now += 0.5
    assert watch.look() == [path]


def test_old_files_are_finished_at_once(watch: FolderWatch, tmp_path: Path) -> None:
    moved = write(tmp_path / "b.jpg", age_s=10)
    new = tmp_path / "in" / "b.jpg"
    Path(moved).rename(new)
    write(tmp_path / "in" / "empty.jpg", b"", age_s=10)
    assert watch.look() == [str(new)]


@pytest.mark.posix("makes links")
def test_folders_below_and_what_is_left_out(watch: FolderWatch, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    below = write(folder / "sub" / "a.PNG", age_s=10)
    write(folder / ".a.jpg.Xy3", age_s=10)  # of rsync
    write(folder / ".trash" / "b.jpg", age_s=10)
    write(folder / "notes.txt", age_s=10)
    (folder / "sub" / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    assert watch.look() == [below]


def test_what_has_a_record_is_not_taken(watch: FolderWatch, done: set[str], tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.jpg", age_s=10)
    assert watch.look() == [path]
    done.add(path)
    watch.drop(path)
    assert watch.look() == []
    write(tmp_path / "in" / "a.jpg", b"replaced", age_s=5)
    assert watch.look() == []


def test_what_cannot_be_read_is_tried_again(
    watch: FolderWatch, clock: Clock, tmp_path: Path
) -> None:
    path = write(tmp_path / "in" / "a.jpg", age_s=10)
    for wait_s in RETRIES_S:
        assert watch.look() == [path]
        assert not watch.failed(path)
        clock.now += wait_s - 0.1
        assert watch.look() == []
        clock.now += 0.1
    assert watch.look() == [path]
    assert watch.failed(path)


def test_a_change_begins_the_tries_anew(watch: FolderWatch, clock: Clock, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.jpg", age_s=10)
    for wait_s in RETRIES_S:
        assert watch.look() == [path]
        watch.failed(path)
        clock.now += wait_s
    write(Path(path), b"more of it")
    assert watch.look() == []
    clock.now += 1
    assert watch.look() == [path]
    assert not watch.failed(path)


def test_deleted_files_are_forgotten(watch: FolderWatch, clock: Clock, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "in" / "a.jpg"))
    assert watch.look() == []
    path.unlink()
    clock.now += 1
    assert watch.look() == []
    path = Path(write(path, age_s=10))
    assert watch.look() == [str(path)]
    path.unlink()
    assert watch.is_gone(str(path))


def test_a_folder_that_is_away_is_waited_for(
    watch: FolderWatch, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "in", write(tmp_path / "in" / "a.jpg", age_s=10)
    assert watch.look() == [path]
    folder.rename(tmp_path / "away")
    assert [watch.look(), watch.look()] == [[], []]
    assert not watch.is_gone(path)  # with its folder, so it may come back
    assert not watch.failed(path)  # which is no try of the file
    (tmp_path / "away").rename(folder)
    clock.now += 1
    assert watch.look() == [path]
    notes = capsys.readouterr().err.splitlines()
    assert [note.rpartition(": ")[2] for note in notes] == [
        "cannot be read (No such file or directory); waiting for it.",
        "is there again.",
    ]


def test_an_unchanged_folder_is_not_listed_again(
    watch: FolderWatch,
    clock: Clock,
    done: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed: list[str] = []
    entries = folder_watch._entries

    def noted(folder: str) -> Iterator[os.DirEntry[str]]:
        listed.append(folder)
        return entries(folder)

    monkeypatch.setattr(folder_watch, "_entries", noted)
    folder = tmp_path / "in"
    done.add(write(folder / "sub" / "a.jpg", age_s=60))
    for place in (folder / "sub", folder):
        os.utime(place, (time.time() - 60,) * 2)
    watch.look()
    watch.look()
    assert listed == [str(folder), str(folder / "sub")]
    new = write(folder / "sub" / "b.jpg", age_s=10)  # changes the time of sub
    assert watch.look() == [new]
    assert listed[2:] == [str(folder / "sub")]
    clock.now += 61
    watch.look()
    assert str(folder) in listed[3:]


def test_a_backlog_is_taken_in_portions(
    watch: FolderWatch, done: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_watch, "MOST_WAITING", 5)
    monkeypatch.setattr(folder_watch, "MOST_READY", 3)
    paths = {write(tmp_path / "in" / f"{number}.jpg", age_s=10) for number in range(12)}
    os.utime(tmp_path / "in", (time.time() - 60,) * 2)
    portions = []
    while portion := watch.look():
        portions.append(len(portion))
        done.update(portion)
        for path in portion:
            watch.drop(path)
    assert done == paths
    assert max(portions) == 3


def test_a_folder_below_that_vanishes_is_no_error(watch: FolderWatch, tmp_path: Path) -> None:
    write(tmp_path / "in" / "sub" / "a.jpg", age_s=10)
    assert len(watch.look()) == 1
    shutil.rmtree(tmp_path / "in" / "sub")
    assert watch.look() == []
