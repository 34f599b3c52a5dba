"""Which files an input stands for: folders, patterns, links, pipes, names that are not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from numclip_runtime import ImageError, UsageError
from numclip_runtime.app.inputs import Item, open_inputs
from numclip_runtime.images.folder import find_images
from tests.runtime.conftest import invoke, records


def items(*inputs: object) -> list[Item]:
    return [item for group in open_inputs([str(i) for i in inputs]).ready for item in group]


@pytest.fixture
def closed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return photos/sub, which cannot be read, by root neither."""
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path) == photos / "sub":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return photos / "sub"


@pytest.mark.parametrize("pattern", ["", "**/*.*g", "**"])
def test_a_closed_folder_is_one_failed_record(closed: Path, pattern: str) -> None:
    """Found: one folder such as lost+found kept all others from being read."""
    found = items(closed.parent / pattern if pattern else closed.parent)
    assert [Path(item.path).name for item in found if "notes" not in item.path] == [
        "dark.png",
        "light.jpg",
        "sub",
    ]
    assert isinstance(found[-1].error, ImageError)
    assert str(found[-1].error) == f"{closed}: cannot read this folder (Permission denied)."


def test_a_closed_folder_is_an_error_where_all_images_count(closed: Path) -> None:
    with pytest.raises(UsageError, match=r"sub: cannot read this folder \(Permission denied\)"):
        find_images([str(closed.parent)])


def test_an_empty_name_is_one_failed_record(tiny: Path, photos: Path) -> None:
    """Found: it ended in a traceback, as a script's unset variable makes it."""
    result = invoke(tiny, "", photos / "dark.png")
    assert result.exit_code == 1
    assert [record["path"] for record in records(result)] == ["", str(photos / "dark.png")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_folder_is_no_image(photos: Path) -> None:
    """Found: reading it waits for ever. A dead link stays one failed record."""
    os.mkfifo(photos / "a.png")
    (photos / "b.png").symlink_to("gone")
    assert [Path(item.path).name for item in items(photos)] == [
        "b.png",
        "dark.png",
        "light.jpg",
        "mid.PNG",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/**/*.[pP][nN][gG]", ["photos/dark.png", "photos/sub/mid.PNG"]),
        ("./photos/**/mid.PNG", ["./photos/sub/mid.PNG"]),
        ("**/mid.PNG", ["photos/sub/mid.PNG"]),
        ("**/photos/**/*.jpg", ["photos/light.jpg"]),
        ("photos/**/sub/**/*.PNG", ["photos/sub/mid.PNG"]),
        ("ph*/**/sub/*", ["photos/sub/mid.PNG"]),
        ("photos/s**/*", ["photos/sub/mid.PNG"]),
        ("photos/sub/**", ["photos/sub/mid.PNG"]),
        ("photos/**/**/n*", ["photos/notes.txt"]),
    ],
)
def test_stars(
    photos: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    Image.new("L", (2, 2)).save(photos / ".hidden.png")
    (photos / ".folder").mkdir()
    Image.new("L", (2, 2)).save(photos / ".folder" / "a.png")
    monkeypatch.chdir(photos.parent)
    assert find_images([pattern]) == expected
    if not pattern.startswith("."):
        absolute = str(photos.parent / pattern)
        assert find_images([absolute]) == [str(photos.parent / path) for path in expected]


@pytest.mark.posix("makes links")
def test_stars_follow_no_links_to_folders(photos: Path) -> None:
    """Found: with two links to their own folder, `**` did not end in this life."""
    for name in ("a", "b"):
        (photos / name).symlink_to(".", target_is_directory=True)
    assert len(find_images([str(photos / "**" / "*.*[gG]")])) == 3


def test_a_folder_with_pattern_characters_in_its_name(photos: Path) -> None:
    folder = photos.rename(photos.with_name("[photos]*"))
    assert len(find_images([str(folder)])) == 3
    (folder / "sub").rename(folder / "[sub]")
    assert find_images([str(folder.parent / "*" / "**" / "*.PNG")]) == [
        str(folder / "[sub]" / "mid.PNG")
    ]
