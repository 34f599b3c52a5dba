"""Checks before training: broken images, shared images and groups, class balance."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip.data.checks import (
    ImageCheck,
    Leakage,
    balance_table,
    bar_character,
    broken_images,
    empty_bins,
    find_leakage,
    summary,
    without_broken,
)
from numclip.data.samples import ImageFile, Sample
from numclip.tasks import load_task
from numclip_runtime import Task, UsageError


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
    assert "flipped.png: cannot be decoded (" in broken[photos["flipped.png"]]


def test_decoding_finds_truncated_pixels(photos: dict[str, Path]) -> None:
    broken = broken_images(list(photos.values()), "decode")
    assert set(broken) == {photos[n] for n in ("empty.png", "text.png", "cut.jpg", "flipped.png")}
    assert "cut.jpg: cannot be decoded (" in broken[photos["cut.jpg"]]


def test_a_file_that_vanished_is_broken(tmp_path: Path) -> None:
    (fault,) = broken_images([tmp_path / "gone.png"], "header").values()
    assert fault.endswith("gone.png: no such file.")


def test_no_check_reads_nothing(photos: dict[str, Path]) -> None:
    assert broken_images([*photos.values(), Path("missing.png")], "none") == {}


def test_quiet_when_piped(photos: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    broken_images(list(photos.values()), "header")
    assert capfd.readouterr() == ("", "")


def test_refused_or_left_out() -> None:
    samples = [Sample(Path(f"{i}.png"), 0.0) for i in range(9)]
    broken: dict[ImageFile, str] = {
        Path(f"{i}.png"): f"{i}.png: the file is empty." for i in range(1, 8)
    }
    with pytest.raises(UsageError) as caught:
        without_broken(samples, broken, skip=False, name="train")
    assert str(caught.value).splitlines() == [
        "7 of 9 train images are broken:",
        *(f"  {i}.png: the file is empty." for i in range(1, 6)),
        "  and 2 more",
        "Repair or remove them, or leave them out with --skip-broken.",
    ]
    assert without_broken(samples, broken, skip=True, name="train") == [samples[0], samples[8]]
    assert without_broken(samples, dict[ImageFile, str](), skip=False, name="train") == samples


def test_nothing_left() -> None:
    broken: dict[ImageFile, str] = {Path("a.png"): "a.png: the file is empty."}
    with pytest.raises(UsageError, match=r"1 of 1 val images are broken:\n.*\n.*none is left"):
        without_broken([Sample(Path("a.png"), 0.0)], broken, skip=True, name="val")


def test_overlap(tmp_path: Path) -> None:
    contents = {"a": "one", "b": "two", "copy": "one", "same-size": "six", "other": "longer"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "sub").mkdir()
    train = [Sample(tmp_path / "a", 0.0, (), "x"), Sample(tmp_path / "b", 0.0, (), "y")]
    again = tmp_path / "sub" / ".." / "b"  # another name of the same file
    val = [
        Sample(again, 0.0, (), "z"),
        *(Sample(tmp_path / name, 0.0, (), "y") for name in ("copy", "same-size", "other")),
        Sample(tmp_path / "other", 0.0),
    ]
    assert find_leakage(val, train, contents=True) == Leakage(
        (again,), (tmp_path / "copy",), ("y",)
    )
    assert find_leakage(val, train, contents=False) == Leakage((again,), (), ("y",))
    assert find_leakage(val[2:3], train[:1], contents=True) == Leakage((), (), ())


def test_unknown_groups_are_not_shared(tmp_path: Path) -> None:
    train, val = [Sample(tmp_path / "a", 0.0)], [Sample(tmp_path / "b", 0.0)]
    assert find_leakage(val, train, contents=False).groups == ()


def samples(*labels: float) -> list[Sample]:
    return [Sample(Path("a.png"), label) for label in labels]


def test_ranges() -> None:
    sets = {"train": samples(*[14] * 30, *[70] * 300, 20), "val": samples(3, 70)}
    assert balance_table(sets, load_task("age")).splitlines() == [
        "bin           years       train                       val",
        "child         0 to 13         0   0.0%                  1  50.0% ##########",
        "teenager      13 to 19       30   9.1% #                0   0.0%",
        "young adult   19 to 35        1   0.3% #                0   0.0%",
        "middle adult  35 to 65        0   0.0%                  0   0.0%",
        "older adult   65 to 101     300  90.6% ##########       1  50.0% ##########",
    ]


@pytest.mark.parametrize("phrase", ["bad", "neither dark nor bright", "very " * 40])
def test_three_sets_fit_80_columns(phrase: str) -> None:
    """Found: 99 columns, which a terminal breaks."""
    task = Task("x", "points", (0, 10, 20), (phrase, "b"))
    sets = {name: samples(*[5] * 70, 15) for name in ("train", "val", "test")}
    lines = balance_table(sets, task).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(phrase[:8])
    assert lines[1].count("70") == 3


def test_classes_with_offset() -> None:
    table = balance_table({"train": samples(1, 5)}, load_task("aesthetics"), bar="=")
    assert table.splitlines()[0].split() == ["bin", "label", "train"]
    assert table.splitlines()[1].split() == ["unacceptable", "1", "1", "50.0%", "=" * 10]


def test_summary() -> None:
    age = load_task("age")
    assert summary("val", samples(16, 77.5), age) == "val: 2 images, labels 16 to 77.5 years"
    several = [*samples(1), Sample(Path("b.png"), 2.0, (2.0, 3.0))]
    assert summary("train", several, load_task("aesthetics")) == (
        "train: 2 images, labels 1 to 2, 1 with several annotators"
    )


def test_empty_bins() -> None:
    assert empty_bins(samples(14, 20, 40), load_task("age")) == ["child", "older adult"]


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "█"), ("ascii", "#")])
def test_bar_fits_stdout(encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert bar_character() == expected


@pytest.mark.parametrize("check", ["header", "decode"])
def test_a_wrong_checksum_of_a_comment_breaks_nothing(tmp_path: Path, check: ImageCheck) -> None:
    """What prediction reads, training does not refuse."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "hello")
    Image.effect_noise((40, 30), 80).save(tmp_path / "a.png", pnginfo=info)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"hello") + 5] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    assert broken_images([tmp_path / "a.png"], check) == {}
