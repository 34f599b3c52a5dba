"""Annotated copies: where they go, and what is drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from numclip_runtime import Prediction, Task
from numclip_runtime.app.annotate import annotated, lines_of
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
    for folder, message in ((photos, "is not empty; give a new"), (photos / "dark.png", "cannot")):
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
