"""What a folder contains: the same for prediction and training."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from numclip_runtime import UsageError
from numclip_runtime.images import folder as rule
from numclip_runtime.images.folder import LeftOut, find_images, is_rubbish
from numclip_runtime.images.formats import IMAGE_SUFFIXES
from tests.runtime.conftest import invoke, records

GREY = Image.new("RGB", (8, 8), (200, 200, 200))
FindSpec = Callable[[str], object]


def names(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    found = find_images([str(folder)], left_out=LeftOut() if left_out is None else left_out)
    return [Path(path).relative_to(folder).as_posix() for path in found]


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content:
        path.write_bytes(content)
    else:
        GREY.save(path, "JPEG")
    return path


def without_heif(name: str) -> object:
    return None if name == "pillow_heif" else importlib.util.find_spec(name)


def test_every_suffix_in_any_case(tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES - {".avif"}:
        put(tmp_path / f"a{suffix}")
        put(tmp_path / f"b{suffix.upper()}")
    assert len(names(tmp_path)) == 2 * len(IMAGE_SUFFIXES - {".avif"})
    for suffix in (".jfif", ".jpe", ".mpo", ".apng", ".j2k", ".pnm", ".dib", ".jpx"):
        assert suffix in IMAGE_SUFFIXES


@pytest.mark.parametrize("below", ["", "deep/er/"])
def test_hidden_and_rubbish(tmp_path: Path, below: str) -> None:
    put(tmp_path / below / "a.jpg")
    for name in (
        *(".hidden/x.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "._a.jpg", ".b.jpg"),
        *("__MACOSX/._a.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg"),
        *("#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", "System Volume Information/a.jpg"),
        *("lost+found/a.jpg", "@Recycle/a.jpg", ".Trash-1000/files/a.jpg"),
    ):
        put(tmp_path / below / name)
    put(tmp_path / below / "Thumbs.db", b"x")
    left_out = LeftOut()
    assert names(tmp_path, left_out) == [f"{below}a.jpg"]
    assert not left_out
    assert names(tmp_path / below / ".hidden") == ["x.jpg"]  # named directly


def test_what_is_left_out_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "find_spec", without_heif)
    put(tmp_path / "a.jpg")
    for i in range(12):
        put(tmp_path / f"{i}.HEIC", b"x")
    assert (
        invoke(tiny, tmp_path).stderr == "Note: left out: 12 .heic; pip install 'numclip[heif]'.\n"
    )
    for name in (
        "a.cr2",
        "b.nef",
        "c.svg",
        "d.pdf",
        "e.psd",
        "f.mp4",
        "g.jxl",
        "notes.txt",
        "x.csv",
    ):
        put(tmp_path / "sub" / name, b"x")
    put(tmp_path / "no-suffix")
    put(tmp_path / "README", b"words")
    result = invoke(tiny, tmp_path, tmp_path / "a.jpg")
    assert (result.exit_code, len(records(result))) == (0, 2)
    (line,) = result.stderr.splitlines()
    for part in ("12 .heic", "1 .cr2", "1 .nef", "1 .svg", "1 .pdf", "1 .psd", "1 .mp4", "1 .jxl"):
        assert part in line
    assert "1 without a suffix" in line
    assert "raw photos: convert it to JPEG or TIFF" in line
    assert "txt" not in line
    assert "csv" not in line


def test_quiet_when_nothing_is_left_out(tiny: Path, photos: Path) -> None:
    assert invoke(tiny, photos).stderr == ""


def test_only_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "find_spec", without_heif)
    put(tmp_path / "a.heic", b"x")
    with pytest.raises(UsageError, match=r"no images .*; left out: 1 \.heic; pip install 'numclip"):
        find_images([str(tmp_path)])


def test_heic_belongs_to_it_with_the_extra(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    put(tmp_path / "a.heic", b"x")
    assert names(tmp_path) == ["a.heic"]


@pytest.mark.posix("links")
def test_links_to_folders(tmp_path: Path) -> None:
    photos, other = tmp_path / "photos", tmp_path / "other"
    put(photos / "b" / "a.jpg")
    put(other / "z.jpg")
    (photos / "a").symlink_to("b", target_is_directory=True)  # the same, by a lower name
    (photos / "b" / "loop").symlink_to("..", target_is_directory=True)
    (photos / "itself").symlink_to(".", target_is_directory=True)
    (photos / "l1").symlink_to(other, target_is_directory=True)
    (photos / "l2").symlink_to(other, target_is_directory=True)
    (other / "back").symlink_to(photos, target_is_directory=True)
    (photos / "dead").symlink_to("nowhere", target_is_directory=True)
    assert names(photos) == ["b/a.jpg", "l1/z.jpg"]
    link = tmp_path / "link"
    link.symlink_to(photos, target_is_directory=True)
    assert names(link) == ["b/a.jpg", "l1/z.jpg"]
    (photos / "again.jpg").symlink_to("b/a.jpg")  # a link to a file is an image of its own
    assert names(photos) == ["again.jpg", "b/a.jpg", "l1/z.jpg"]


def test_patterns_skip_rubbish_that_they_do_not_name(tmp_path: Path) -> None:
    put(tmp_path / "a" / "x.jpg")
    put(tmp_path / "@eaDir" / "x.jpg")
    put(tmp_path / "b" / "@eaDir" / "x.jpg")
    for pattern in ("*/x.jpg", "**/x.jpg", "**"):
        assert find_images([str(tmp_path / pattern)]) == [str(tmp_path / "a" / "x.jpg")]
    assert len(find_images([str(tmp_path / "@eaDir" / "*.jpg")])) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [(".a", True), ("__macosx", True), ("Lost+Found", True), ("a.jpg", False), ("@home", False)],
)
def test_is_rubbish(name: str, expected: bool) -> None:
    assert is_rubbish(name) is expected


def test_a_pattern_never_requires_videos(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: TypeScript ends in .ts as well, and refused the run."""
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    put(tmp_path / "a.jpg")
    (tmp_path / "b.ts").write_text("export const G = 7;\n" * 30)
    (tmp_path / "c.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    result = invoke(tiny, tmp_path / "*")
    first, second, third = records(result)
    assert result.exit_code == 1
    assert "value" in first
    assert "not an image" in second["error"]
    assert "numclip[video]" in third["error"]
    assert invoke(tiny, tmp_path / "b.ts").exit_code == 1
    assert invoke(tiny, tmp_path / "c.mp4").exit_code == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    put(tmp_path / "b.jpg")
    assert names(tmp_path) == ["b.jpg"]
