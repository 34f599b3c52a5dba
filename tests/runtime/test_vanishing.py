"""An image that vanishes or changes while it is read is one failed record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from numclip_runtime import ImageError
from numclip_runtime.images import decode, formats, mend
from numclip_runtime.images.signatures import signature
from numclip_runtime.preprocess import load_rgb
from tests.runtime.conftest import invoke, records


def gone(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def made_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def closed(path: Path) -> None:
    path.chmod(0)


LOOP = pytest.param(made_a_loop, marks=pytest.mark.posix("links"))
CHANGES = [gone, emptied, cut, made_a_folder, LOOP, closed]
PLACES = [  # (module, name): the change comes just before this is called
    (formats, "open_regular"),
    (formats, "signature"),
    (formats, "check_memory"),
    (decode, "_orientation"),
    (decode, "to_rgb"),
    (mend, "mended"),
    (decode, "image_error"),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".txt.jpg"])
def test_a_change_at_any_moment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    place: tuple[Any, str],
    suffix: str,
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".txt.jpg":
        path.write_text("no image")
    else:
        Image.effect_noise((300, 300), 80).save(path)
    module, name = place
    original, pending = getattr(module, name), [change]

    def changed(*args: Any, **options: Any) -> Any:
        if pending:
            pending.pop()(path)
        return original(*args, **options)

    monkeypatch.setattr(module, name, changed)
    said = f"{path}: read."
    try:
        load_rgb(path)
    except ImageError as error:
        said = str(error)
    assert said.startswith(f"{path}: ")
    assert said.endswith(".")


@pytest.mark.parametrize("change", CHANGES)
def test_the_run_goes_on(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    shutil.copy(photos / "dark.png", photos / "sub" / "z.png")
    original = signature
    first = photos / "dark.png"

    def changed(head: bytes) -> str:
        if first.is_file() and first.stat().st_size > 60 and os.access(first, os.R_OK):
            change(first)
        return original(head)

    monkeypatch.setattr(formats, "signature", changed)
    out = tmp_path / "out"
    args = (photos, "--workers", 1, "--annotate", out, "--report", tmp_path / "r.html")
    result = invoke(tiny, *args)
    assert result.exit_code in (0, 1)
    found = records(result)
    assert [Path(record["path"]).name for record in found] == [
        *("dark.png", "light.jpg", "mid.PNG", "z.png")
    ]
    assert ["value" in record for record in found[1:]] == [True] * 3
