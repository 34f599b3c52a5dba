"""Pictures of every odd kind through `numclip-run`: one record per input, and the right number."""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import ImageError, Prediction, Predictor, load
from numclip_runtime.preprocess import load_rgb
from tests.runtime.conftest import invoke, records


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY = Image.new("L", (20, 14), 200)
RGB = Image.new("RGB", (20, 14), (200, 200, 200))
FRAMES = [Image.new("L", (20, 14), level) for level in (200, 0, 30)]
LARGE = RGB.resize((200, 140))  # --fast-decode takes half of it or less
SIXTEEN_BIT = Image.fromarray(np.full((14, 20), 200 * 257, np.uint16))


def claim_size(jpeg: bytes, side: int) -> bytes:
    """Return a JPEG whose header says that it is a square of `side` pixels."""
    at = jpeg.index(b"\xff\xc0") + 5  # marker, length, bits per sample; then height, width
    return jpeg[:at] + 2 * side.to_bytes(2, "big") + jpeg[at + 4 :]


# name -> (file, whether it can be read). Each that can shows even grey of level 200.
CASES: dict[str, tuple[bytes, bool]] = {
    "plain.png": (save(GREY, "PNG"), True),
    "one-pixel.png": (save(GREY.resize((1, 1)), "PNG"), True),
    "wide.png": (save(GREY.resize((50_000, 2)), "PNG"), True),
    "high.png": (save(GREY.resize((2, 50_000)), "PNG"), True),
    "wide.jpg": (save(RGB.resize((50_000, 2)), "JPEG"), True),
    "really-a-png.jpg": (save(GREY, "PNG"), True),
    "really-a-jpeg.png": (save(RGB, "JPEG"), True),
    "no-suffix": (save(RGB, "JPEG"), True),
    "rgba.png": (save(RGB.convert("RGBA"), "PNG"), True),
    "la.png": (save(GREY.convert("LA"), "PNG"), True),
    "palette.png": (save(RGB.convert("P"), "PNG"), True),
    "palette-transparent.png": (save(GREY.convert("P"), "PNG", transparency=b"\x80" * 256), True),
    "sixteen-bit.png": (save(SIXTEEN_BIT, "PNG"), True),
    "sixteen-bit.tif": (save(SIXTEEN_BIT, "TIFF"), True),
    "cmyk.jpg": (save(Image.new("CMYK", (20, 14), (0, 0, 0, 55)), "JPEG", quality=100), True),
    "animated.gif": (save(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), True),
    "animated.png": (save(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), True),
    "pages.tif": (save(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), True),
    "animated.webp": (
        save(RGB, "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        True,
    ),
    "large.jpg": (save(LARGE, "JPEG"), True),
    "large-grey.jpg": (save(LARGE.convert("L"), "JPEG"), True),
    "large-cmyk.jpg": (
        save(Image.new("CMYK", LARGE.size, (0, 0, 0, 55)), "JPEG", quality=100),
        True,
    ),
    "large-progressive.png": (save(LARGE, "JPEG", progressive=True), True),
    "large-wide.jpg": (save(RGB.resize((50_000, 60)), "JPEG"), True),
    "large-truncated.jpg": (save(Image.effect_noise((200, 140), 80), "JPEG")[:-200], False),
    "truncated.jpg": (save(Image.effect_noise((99, 99), 80), "JPEG")[:-200], False),
    "truncated.png": (save(Image.effect_noise((99, 99), 80), "PNG")[:-200], False),
    "header-only.png": (save(GREY, "PNG")[:33], False),
    "empty.jpg": (b"", False),
    "text.jpg": (b"not an image\n", False),
    # 0 to 1, or 0 to 255? Found: Pillow takes the latter, and so read the former as black
    "float.tif": (save(Image.fromarray(np.full((14, 20), 0.78, np.float32)), "TIFF"), False),
    "bomb.png": (save(Image.new("1", (20_000, 20_000)), "PNG"), False),
    "bomb.jpg": (claim_size(save(LARGE, "JPEG"), 20_000), False),
}


@pytest.mark.parametrize("flags", [(), ("--batch-size", 4, "--workers", 3), ("--fast-decode",)])
def test_every_kind_is_one_record(
    tiny: Path, tmp_path: Path, predictor: Predictor, flags: tuple[object, ...]
) -> None:
    paths = [tmp_path / name for name in CASES]
    for path, (content, _) in zip(paths, CASES.values(), strict=True):
        path.write_bytes(content)
    result = invoke(tiny, *paths, *flags)
    got = records(result)
    assert [record["path"] for record in got] == [str(path) for path in paths]
    readable = {name: can for name, (_, can) in CASES.items()}
    assert {Path(r["path"]).name: "value" in r for r in got} == readable
    value = predictor.predict(GREY).value
    for record in got:
        if "value" in record:  # CMYK and JPEG round by one level, 0.05 points
            assert record["value"] == pytest.approx(value, abs=0.15), record["path"]
        else:
            assert record["error"].startswith(f"{record['path']}: ")
    failed = list(readable.values()).count(False)
    *notes, last = result.stderr.splitlines()
    assert (result.exit_code, last) == (1, f"{failed} of {len(CASES)} images failed.")
    assert len(notes) == ("--fast-decode" in flags)
    assert all("in 4 JPEGs decoded both ways" in note for note in notes)


def test_annotated_copies_of_every_kind(tiny: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, (content, _) in CASES.items():
        (folder / name).write_bytes(content)
    assert invoke(tiny, *[folder / name for name in CASES], "--annotate", out).exit_code == 1
    copies = sorted(path.name for path in out.iterdir())
    kept = (".png", ".jpg")
    expected = [n if n.endswith(kept) else f"{n}.png" for n, (_, can) in CASES.items() if can]
    assert copies == sorted(expected)
    for path in out.iterdir():
        with Image.open(path) as image:
            image.load()


@pytest.mark.parametrize("name", ["bomb.png", "bomb.jpg"])
@pytest.mark.parametrize("fast_decode", [False, True])
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, tiny: Path, name: str, fast_decode: bool
) -> None:
    (tmp_path / name).write_bytes(CASES[name][0])
    with (
        load(tiny, threads=1, fast_decode=fast_decode) as predictor,
        pytest.raises(
            ImageError,
            match=rf"{name}: refused, an image of 20000 x 20000 .* decompression bombs",
        ),
    ):
        predictor.predict(tmp_path / name)


def test_a_very_large_photo_is_no_warning(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns from 89 megapixels, and refuses from 179."""
    GREY.save(tmp_path / "a.png")  # 280 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    result = invoke(tiny, tmp_path / "a.png")
    assert (result.exit_code, result.stderr) == (0, "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert invoke(tiny, tmp_path / "a.png").exit_code == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_unreadable_file_and_folder(tiny: Path, photos: Path) -> None:
    (photos / "dark.png").chmod(0)
    result = invoke(tiny, photos / "dark.png", photos / "light.jpg")
    assert [record.get("error") for record in records(result)] == [
        f"{photos / 'dark.png'}: cannot be decoded (Permission denied).",
        None,
    ]
    (photos / "sub").chmod(0)
    try:
        result = invoke(tiny, photos / "light.jpg", photos / "sub")
        assert result.exit_code == 1
        assert [record.get("error") for record in records(result)] == [
            None,
            f"{photos / 'sub'}: cannot read this folder (Permission denied).",
        ]
    finally:
        (photos / "sub").chmod(stat.S_IRWXU)


def test_model_replaced_while_running(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run keeps the model that it started with."""
    model = tmp_path / "model.onnx"
    shutil.copy(tiny, model)
    expected = records(invoke(model, photos))
    stream: Callable[..., Iterator[Prediction | ImageError]] = Predictor.stream

    def replace(self: Predictor, images: Any, **options: Any) -> Iterator[Any]:
        for number, result in enumerate(stream(self, images, **options)):
            yield result
            if number == 0:  # in place, and by another file under the same name
                model.write_bytes(b"half a mod")
                (tmp_path / "other").write_bytes(b"x")
                (tmp_path / "other").replace(model)

    monkeypatch.setattr(Predictor, "stream", replace)
    result = invoke(model, photos)
    assert result.exit_code == 0
    assert records(result) == expected


def test_image_removed_while_running(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, then gone before it is copied: the record stands, and the run goes on."""
    names = [photos / "dark.png", photos / "light.jpg"]

    def vanish(source: Any) -> Image.Image:
        if source == str(names[0]):
            names[0].unlink()
        return load_rgb(source)

    monkeypatch.setattr("numclip_runtime.app.annotate.load_rgb", vanish)
    result = invoke(tiny, *names, "--annotate", tmp_path / "out")
    assert result.exit_code == 0
    assert ["value" in record for record in records(result)] == [True, True]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["light.jpg"]
