"""Broken files are found before training, named, and refused or left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip.data.checks import broken_images, without_broken
from numclip.data.samples import Sample
from numclip_runtime import UsageError


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """Return a good PNG and JPEG, and four broken files."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    names = ("good.png", "good.jpg", "empty.png", "text.png", "cut.jpg", "flipped.png")
    paths = {name: tmp_path / name for name in names}
    for name in ("good.png", "good.jpg"):
        Image.fromarray(noise).save(paths[name])
    paths["empty.png"].touch()
    paths["text.png"].write_text("not an image")
    data = paths["good.jpg"].read_bytes()
    paths["cut.jpg"].write_bytes(data[: len(data) // 2])
    flipped = bytearray(paths["good.png"].read_bytes())
    flipped[len(flipped) // 2] ^= 255  # the pixels' checksum is wrong
    paths["flipped.png"].write_bytes(flipped)
    return paths


def test_headers(photos: dict[str, Path]) -> None:
    broken = broken_images(list(photos.values()) * 2, "header")
    assert [path.name for path in broken] == ["empty.png", "text.png", "flipped.png"]
    assert broken[photos["empty.png"]].endswith("empty.png: the file is empty.")
    assert broken[photos["text.png"]].endswith("text.png: not an image that Pillow can read.")
    assert "flipped.png: cannot be read (" in broken[photos["flipped.png"]]


def test_decoding_finds_truncated_pixels(photos: dict[str, Path]) -> None:
    broken = broken_images(list(photos.values()), "decode")
    assert set(broken) == {photos[n] for n in ("empty.png", "text.png", "cut.jpg", "flipped.png")}
    assert "cut.jpg: cannot be decoded (" in broken[photos["cut.jpg"]]


def test_a_file_that_vanished_is_broken(tmp_path: Path) -> None:
    (fault,) = broken_images([tmp_path / "gone.png"], "header").values()
    assert fault.endswith("gone.png: cannot be read (No such file or directory).")


def test_no_check_reads_nothing(photos: dict[str, Path]) -> None:
    assert broken_images([*photos.values(), Path("missing.png")], "none") == {}


def test_quiet_when_piped(photos: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    broken_images(list(photos.values()), "header")
    assert capfd.readouterr() == ("", "")


def test_refused_or_left_out() -> None:
    samples = [Sample(Path(f"{i}.png"), 0.0) for i in range(9)]
    broken = {Path(f"{i}.png"): f"{i}.png: the file is empty." for i in range(1, 8)}
    with pytest.raises(UsageError) as caught:
        without_broken(samples, broken, skip=False, name="train")
    assert str(caught.value).splitlines() == [
        "7 of 9 train images are broken:",
        *(f"  {i}.png: the file is empty." for i in range(1, 6)),
        "  and 2 more",
        "Repair or remove them, or leave them out with --skip-broken.",
    ]
    assert without_broken(samples, broken, skip=True, name="train") == [samples[0], samples[8]]
    assert without_broken(samples, {}, skip=False, name="train") == samples


def test_nothing_left() -> None:
    broken = {Path("a.png"): "a.png: the file is empty."}
    with pytest.raises(UsageError, match=r"1 of 1 val images are broken:\n.*\n.*none is left"):
        without_broken([Sample(Path("a.png"), 0.0)], broken, skip=True, name="val")
