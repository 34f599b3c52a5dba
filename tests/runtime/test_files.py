"""Reading only regular files, and only so much of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numclip_runtime import UsageError
from numclip_runtime.files import open_regular, read_limited


@pytest.mark.posix("makes links")
def test_a_regular_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"12345"


@pytest.mark.posix("makes a pipe")
def test_a_pipe_device_or_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is a pipe, socket or device") as caught:
            open_regular(path)
        assert caught.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_may_have_as_many_bytes_as_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UsageError, match=r"a: is larger than 4 bytes"):
        read_limited(tmp_path / "a", 4)
