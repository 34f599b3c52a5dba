"""Annotated copies: where they go, and what is drawn."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from numclip_runtime import Prediction, Predictor, Task
from numclip_runtime.app.annotate import Annotator, annotated, lines_of
from numclip_runtime.app.copy_names import inside
from tests.runtime.conftest import invoke

LINES = ["42.7 years", "38.1 to 47.3 (90%)", "middle-aged 62%"]


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_names_keep_their_structure(tiny: Path, photos: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    Image.new("L", (8, 8)).save(photos / "old.bmp")
    out = tmp_path / "new" / "out"
    args = [photos, photos / "dark.png", photos / "*.jpg", photos / "s*" / "*.PNG"]
    assert invoke(tiny, *args, photos / "gone.jpg", "--annotate", out).exit_code == 1
    folder = ["dark.png", "light.jpg", "old.bmp.png", "sub/mid.PNG"]
    again = ["dark-2.png", "light-2.jpg", "sub/mid-2.PNG"]
    assert files(out) == sorted(folder + again)
    assert {path: path.read_bytes() for path in before} == before
    assert (out / "light.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert (out / "sub" / "mid.PNG").read_bytes()[1:4] == b"PNG"


def test_names_of_a_list_stay_inside(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos / "sub")
    lines = f"../dark.png\nmid.PNG\n{photos / 'light.jpg'}\n"
    assert invoke(tiny, "-", "--annotate", tmp_path / "out", stdin=lines).exit_code == 0
    inside = (photos / "light.jpg").relative_to(photos.anchor).as_posix()
    assert files(tmp_path / "out") == sorted(["dark.png", "mid.PNG", inside])


def test_a_folder_in_use_is_refused(tiny: Path, photos: Path) -> None:
    for folder, message in (
        (photos, "is not empty; give a new"),
        (photos / "dark.png", "dark.png: is a file; --annotate takes a folder"),
        (photos / "clip.mp4", "clip.mp4: has the name of a file; --annotate takes a folder"),
    ):
        result = invoke(tiny, photos, "--annotate", folder)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
    assert files(photos) == ["dark.png", "light.jpg", "notes.txt", "sub/mid.PNG"]


def test_lines_of() -> None:
    task = Task("age", "years", (0.0, 50.0, 100.0), ("young", "old"))
    prediction = Prediction(42.71, "years", (38.06, 47.3), "old", {"young": 0.38, "old": 0.62})
    assert lines_of(prediction, task) == ["42.7 years", "38.1 to 47.3 (90%)", "old 62%"]
    bare = Prediction(3.0, "", None, "old", {"young": 0.38, "old": 0.62})
    narrow = Task("x", "", (2.0, 3.0, 5.0), ("young", "old"))
    assert lines_of(bare, narrow) == ["3.000", "old 62%"]


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (4000, 3000), (3000, 200), (200, 3000)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_drawn_inside_with_contrast(size: tuple[int, int], level: int) -> None:
    image = Image.new("RGB", size, (level,) * 3)
    drawn = annotated(image, LINES)
    assert drawn.size == size
    assert image.getextrema() == ((level, level),) * 3, "the picture itself is not drawn on"
    pixels = np.asarray(drawn)
    assert (pixels[: size[1] // 2] == level).all(), "the upper half stays free"
    corner = pixels[size[1] - size[1] // 2 :, : size[0]]
    text, box = corner.max(), corner[-1, 0].max()
    assert text == 255
    assert box <= 64  # contrast of white on level 64 is 10 to 1
    height = np.flatnonzero((pixels == 255).all(2).sum(1) > 0) if level < 255 else np.arange(2)
    assert len(height) > 1


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3, 40), (100, 60)])
def test_too_small_to_draw_into(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    drawn = annotated(image, LINES)
    assert drawn.height > size[1]
    assert drawn.crop((0, 0, *size)).getextrema() == ((255, 255), (0, 0), (0, 0))
    assert np.asarray(drawn)[size[1] :].max() == 255


def test_very_wide() -> None:
    drawn = annotated(Image.new("RGB", (50_000, 2), "red"), LINES)
    assert drawn.width == 50_000
    assert 2 < drawn.height < 200
    assert drawn.getpixel((49_999, 1)) == (255, 0, 0)


def test_the_text_grows_with_the_picture() -> None:
    def text_height(side: int) -> int:
        drawn = np.asarray(annotated(Image.new("RGB", (side, side)), LINES))
        rows = np.flatnonzero(drawn.max((1, 2)) > 128)
        return int(rows[-1] - rows[0])

    assert text_height(2048) > 3.5 * text_height(512)


@pytest.mark.parametrize("phrase", ["sehr alt, größer", "\u4e2d\u5e74", "a\nb\tc", "\u202eevil"])
def test_any_phrase(phrase: str) -> None:
    plain = annotated(Image.new("RGB", (300, 200)), ["1.0", "x" * len(phrase)])
    drawn = annotated(Image.new("RGB", (300, 200)), ["1.0", phrase])
    assert drawn.height == plain.height


def test_upright_and_with_its_colour_profile(tiny: Path, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:, :100] = 255  # left edge, which is the upper edge once turned
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, icc_profile=profile)
    assert invoke(tiny, tmp_path / "a.jpg", "--annotate", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "a.jpg") as copy:
        assert copy.size == (300, 400)
        assert copy.getexif().get(0x0112, 1) == 1
        assert np.asarray(copy)[:90].mean() > 250
        assert copy.info["icc_profile"] == profile


def test_a_profile_for_cmyk_is_left_out(tiny: Path, tmp_path: Path) -> None:
    buffer, profile = io.BytesIO(), b"\0" * 16 + b"CMYK" + b"\0" * 200
    Image.new("CMYK", (64, 64)).save(buffer, "JPEG", icc_profile=profile)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert invoke(tiny, tmp_path / "a.jpg", "--annotate", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "a.jpg") as copy:
        assert copy.mode == "RGB"
        assert "icc_profile" not in copy.info


def test_without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pillow built without FreeType has one bitmap font, and cannot load others."""
    from PIL import ImageFont

    if not features.check("freetype2") or not hasattr(ImageFont, "load_default_imagefont"):
        pytest.skip("Pillow without FreeType, or before 10.4, which has no other way to this font")
    bitmap = ImageFont.load_default_imagefont()

    def load_default(size: float | None = None) -> object:
        if size is not None:
            raise ImportError("The _imagingft C module is not installed")
        return bitmap

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    monkeypatch.setattr(ImageFont, "truetype", lambda *args: load_default(1))
    drawn = annotated(Image.new("RGB", (300, 200)), ["42.7 µm", "größer"])
    assert drawn.size == (300, 200)
    assert np.asarray(drawn).max() == 255


def test_long_names_and_odd_sides(tiny: Path, tmp_path: Path) -> None:
    """Found: each of them ended the run, in the middle of the folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("写" * 80 + ".jpg", "n" * 250 + ".jpg", "x" * 251 + ".bmp"):
        Image.new("L", (30, 20), 100).save(folder / name)
    Image.new("L", (65_501, 3)).save(folder / "wide.png")
    (folder / "wide.png").rename(folder / "wide.jpg")
    result = invoke(tiny, folder, "--annotate", tmp_path / "out")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 4
    copies = files(tmp_path / "out")
    assert len(copies) == 4
    assert "wide.jpg.png" in copies
    assert max(len(name.encode()) for name in copies) <= 255
    notes = result.stderr.splitlines()
    assert len(notes) == 4
    assert all(note.startswith("Note: ") and ": its copy is " in note for note in notes)


def test_a_file_and_a_folder_of_one_name(tiny: Path, tmp_path: Path) -> None:
    for name in ("one/a.jpg", "two/a.jpg/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (30, 20), 100).save(tmp_path / name)
    for order in (("one", "two"), ("two", "one")):
        out = tmp_path / "-".join(order)
        result = invoke(tiny, *[tmp_path / name for name in order], "--annotate", out)
        assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
        expected = ["a.jpg", "a.jpg-2/b.jpg"] if order[0] == "one" else ["a-2.jpg", "a.jpg/b.jpg"]
        assert files(out) == sorted(expected)


def test_a_name_is_claimed_before_the_copy_is_written(tmp_path: Path, predictor: Predictor) -> None:
    """Two processes in one folder, or names that differ in case on macOS and Windows."""
    task, prediction = predictor.metadata.task, predictor.predict(Image.new("L", (9, 9)))
    first, second = (Annotator(tmp_path / "out", task) for _ in range(2))
    image = Image.new("RGB", (30, 20))
    written = [each.write("a.jpg", image, prediction) for _ in range(2) for each in (first, second)]
    names = [path.name for path in written if path is not None]
    assert names == ["a.jpg.jpg", "a.jpg-2.jpg", "a.jpg-3.jpg", "a.jpg-4.jpg"]


def test_a_copy_that_cannot_be_made_is_said(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Image.Image, *args: object, **options: object) -> None:
        raise ValueError("encoder error")

    monkeypatch.setattr(Image.Image, "save", fail)
    result = invoke(tiny, *[photos / "dark.png"] * 9, "--annotate", tmp_path / "out")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 9)
    *notes, last = result.stderr.splitlines()
    assert notes == [f"Note: {photos / 'dark.png'}: no copy was made (encoder error)."] * 5
    assert last == "Note: 4 more copies like these."
    assert files(tmp_path / "out") == []


def test_a_phrase_of_thousands_of_characters(predictor: Predictor) -> None:
    prediction = Prediction(3.0, "u" * 5000, None, "y" * 20_000, {"y" * 20_000: 1.0})
    drawn = annotated(Image.new("RGB", (300, 200)), lines_of(prediction, predictor.metadata.task))
    assert drawn.width < 3000


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (r"C:\photos\a.jpg", r"photos\a.jpg"),
        (r"C:a.jpg", "a.jpg"),
        (r"\\server\share\sub\a.jpg", r"sub\a.jpg"),
        (r"\\?\C:\a.jpg", "a.jpg"),
        (r"..\..\a.jpg", "a.jpg"),
        ("sub/con.jpg", r"sub\_con.jpg"),
        ("AUX", "_AUX"),
        ("nul.tar.gz", "_nul.tar.gz"),
        ("com1.png", "_com1.png"),
        ("lpt\u00b9.png", "_lpt\u00b9.png"),
        ("console.jpg", "console.jpg"),
        ("a. /b...", r"a\b"),
        ('a<b>c:d"e|f?g*.jpg', "a_b_c_d_e_f_g_.jpg"),
        ("a\tb.jpg", "a_b.jpg"),
        ("...", "_"),
        ("..", "image"),
    ],
)
def test_names_on_windows(path: str, expected: str) -> None:
    assert inside(path, windows=True) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/../b.jpg", "a/b.jpg"), ("../../b.jpg", "b.jpg"), ("con.jpg", "con.jpg"), ("", "image")],
)
def test_names_elsewhere(path: str, expected: str) -> None:
    assert inside(path, windows=False) == expected


def test_shortened_names_stay_apart() -> None:
    names = {inside(f"{'é' * 200}{i}.jpeg", windows=False) for i in range(50)}
    assert len(names) == 50
    assert all(len(name.encode()) <= 240 and name.endswith(".jpeg") for name in names)


def test_a_name_that_cannot_be_closed_is_given_up(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing fails on network drives and by quotas, when the empty file is there already."""
    annotator = Annotator(tmp_path / "out", predictor.metadata.task)
    grey, real = Image.new("RGB", (64, 64), "gray"), Path.touch

    def touch(path: Path, *args: Any, **options: Any) -> None:
        real(path, *args, **options)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(OSError, match=r"out.a\.png"):
        annotator.write("a.png", grey, predictor.predict(grey))
    assert not any((tmp_path / "out").iterdir())
