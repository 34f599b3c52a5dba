from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench.images import COUNT, SIZE, find_photos, write_pieces, write_synthetic
from benchmarks.bench.machine.environment import command_line, loaded_versions
from benchmarks.bench.machine.state import load_average


def test_command_line_hides_absolute_paths() -> None:
    argv = ["/somewhere/latency.py", "a/m.onnx", "--json=/home/me/a b.json", "--ckpt", "/x/c.pt"]
    assert command_line(argv) == (
        "python benchmarks/latency.py a/m.onnx '--json=a b.json' --ckpt c.pt"
    )


def test_load_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 0.5, 0.0), raising=False)
    assert load_average() == [1.23, 0.5, 0.0]
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None


def test_versions_of_what_is_loaded() -> None:
    assert loaded_versions()["numpy"] == np.__version__


def test_synthetic_images_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    paths = write_synthetic(first)
    again = write_synthetic(second, count=2)
    assert len(paths) == len({Path(path).read_bytes() for path in paths}) == COUNT
    assert [Path(p).read_bytes() for p in again] == [Path(p).read_bytes() for p in paths[:2]]
    with Image.open(paths[0]) as image:
        assert (image.size, image.format) == (SIZE, "JPEG")


def test_pieces_are_of_all_photos_and_of_one_size(tmp_path: Path) -> None:
    photos = [tmp_path / "wide.png", tmp_path / "small.png"]
    Image.new("RGB", (900, 500), (250, 0, 0)).save(photos[0])
    Image.new("RGB", (100, 100), (0, 0, 250)).save(photos[1])
    folder = tmp_path / "pieces"
    folder.mkdir()
    reds = []
    for path in write_pieces(photos, folder, count=4):
        with Image.open(path) as image:
            assert (image.size, image.format) == (SIZE, "JPEG")
            reds.append(image.getpixel((320, 240))[0] > 200)
    assert reds == [True, False, True, False]


def test_photos_of_packages_are_found_without_importing_them() -> None:
    assert all(path.is_file() for path in find_photos())
