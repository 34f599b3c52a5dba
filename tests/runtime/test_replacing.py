"""Giving a file its name: links, permissions, mounts, and a last step that fails."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from numclip_runtime import UsageError
from numclip_runtime.files import atomic_path, atomic_text, require_writable
from numclip_runtime.signals import Stopped, stop_signals

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"


def write(path: Path, text: str = "new", *, sync: bool = False) -> None:
    with atomic_text(path, sync=sync) as file:
        file.write(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusing(number: int) -> object:
    def replace(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number), str(self), None, str(target))

    return replace


@pytest.mark.posix("makes links")
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.txt", tmp_path / "link.txt"
    if exists:
        target.write_text("old")
    link.symlink_to("middle.txt")
    (tmp_path / "middle.txt").symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert (target.read_text(), names(target.parent)) == ("new", ["real.txt"])


@pytest.mark.posix("makes links")
def test_a_link_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match="a: is a link that leads back to itself"):
        require_writable(tmp_path / "a")


@pytest.mark.posix("permissions")
def test_permissions_stay_and_new_files_get_the_umasks(tmp_path: Path) -> None:
    (old := tmp_path / "old").write_text("old")
    (shared := tmp_path / "shared").write_text("old")
    old.chmod(0o600)
    shared.chmod(0o664)
    before = os.umask(0o027)
    try:
        for path in (old, shared, tmp_path / "new"):
            write(path)
    finally:
        os.umask(before)
    assert [mode_of(path) for path in (old, shared, tmp_path / "new")] == [0o600, 0o664, 0o640]


@pytest.mark.posix("permissions")
def test_what_replaces_a_private_file_is_never_public(tmp_path: Path) -> None:
    (path := tmp_path / "old").write_text("old")
    path.chmod(0o600)
    with atomic_path(path) as temporary:
        assert mode_of(temporary) == 0o600


@pytest.mark.posix("owners")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_the_owner_stays(tmp_path: Path) -> None:
    (path := tmp_path / "old").write_text("old")
    os.chown(path, 1234, 4321)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_failing_chmod_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (path := tmp_path / "old").write_text("old")
    monkeypatch.setattr(Path, "chmod", refused)
    write(path)
    assert path.read_text() == "new"


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM, errno.EACCES])
def test_a_file_that_cannot_be_replaced_gets_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (path := tmp_path / "old").write_text("a longer text than the new one")
    monkeypatch.setattr(Path, "replace", refusing(number))
    write(path)
    assert (path.read_text(), names(tmp_path)) == ("new", ["old"])


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS])
def test_what_cannot_get_its_name_is_kept_and_its_place_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Path, "replace", refusing(number))
    path = tmp_path / "new.txt"
    with pytest.raises(OSError, match="the new content is kept in") as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    (kept,) = tmp_path.iterdir()
    assert kept.read_text() == "new"
    assert str(kept) in str(caught.value.strerror)


def test_errors_name_the_file_that_the_user_knows(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"

    def lose_it() -> None:
        with atomic_path(path) as temporary:
            temporary.unlink()
            temporary.read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        lose_it()
    assert caught.value.filename == str(path)


def in_own_mounts(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script whose mounts no other process sees; it exits with 9 if it cannot mount."""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    if done.returncode == 9 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    return done


@pytest.mark.posix("mounts")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_file_that_is_mounted_by_itself(tiny: Path, photos: Path, tmp_path: Path) -> None:
    """Found: `docker run -v out.jsonl:/out.jsonl` lost all records at the end (EBUSY)."""
    for name in ("host.jsonl", "out.jsonl", "host.html", "out.html", "fixed", "readonly.csv"):
        (tmp_path / name).write_text("old" * 1000)
    script = (
        "mount --bind host.jsonl out.jsonl && mount --bind host.html out.html && "
        "mount --bind fixed readonly.csv && mount -o remount,ro,bind readonly.csv || exit 9\n"
        f"{COMMAND} {tiny} {photos} -o out.jsonl --report out.html || exit 8\n"
        f"{COMMAND} {tiny} {photos} -o readonly.csv"
    )
    done = in_own_mounts(script, tmp_path)
    error = "Error: readonly.csv: cannot write there (the file is mounted read-only).\n"
    assert (done.returncode, done.stderr) == (2, error)
    assert len((tmp_path / "host.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "host.html").read_text().endswith("</html>\n")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.posix("mounts")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("content", ["", "old" * 1000])
def test_a_file_that_can_be_written_in_a_folder_that_cannot(
    tiny: Path, photos: Path, tmp_path: Path, content: str
) -> None:
    """`docker run --read-only -v out.jsonl:/out.jsonl`."""
    (tmp_path / "host.jsonl").write_text(content)
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed/out.jsonl").touch()
    script = (
        "mount --bind fixed fixed && mount -o remount,ro,bind fixed && "
        "mount --bind host.jsonl fixed/out.jsonl || exit 9\n"
        f"{COMMAND} {tiny} {photos} -o fixed/out.jsonl || exit 8\n"
        f"{COMMAND} {tiny} {photos} -o fixed/other.jsonl"
    )
    done = in_own_mounts(script, tmp_path)
    error = "Error: fixed/other.jsonl: cannot write there (Read-only file system).\n"
    assert (done.returncode, done.stderr) == (2, error)
    assert len((tmp_path / "host.jsonl").read_text().splitlines()) == 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.posix("counts system calls")
def test_models_are_synced_and_records_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
    )
    write(tmp_path / "records")
    assert synced == []
    write(tmp_path / "model", sync=True)
    assert synced == [False, True], "first the file, then the folder that holds its name"


def test_the_umask_is_never_changed() -> None:
    """Another thread that makes a file meanwhile would make it public."""
    source = Path(sys.modules["numclip_runtime.files"].__file__ or "").read_text("utf-8")
    assert "umask(" not in source


def test_long_names_have_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("写" * 80 + ".jsonl")
    write(path)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("call", ["open", "close"])
@pytest.mark.parametrize("use", [write, require_writable])
def test_a_signal_while_the_temporary_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, use: Callable[[Path], None]
) -> None:
    real = getattr(os, call)
    struck: list[str] = []

    def signalled(*args: object) -> object:
        done = real(*args)
        if not struck:
            struck.append(call)
            signal.raise_signal(signal.SIGTERM)
        return done

    monkeypatch.setattr(os, call, signalled)
    with pytest.raises(Stopped), stop_signals():
        use(tmp_path / "out.txt")
    assert (names(tmp_path), struck) == ([], [call])
