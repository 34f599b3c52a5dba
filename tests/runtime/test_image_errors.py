"""Every broken image is one ImageError that says which file and why."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from numclip_runtime import ImageError, Predictor
from numclip_runtime.preprocess import load_rgb

NOISE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"  # orientation, camera
    Image.fromarray(NOISE).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jpg", None, "no such file"),
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"hello, I am a text file\n", "not an image that Pillow can read"),
        ("short.jpg", encoded("JPEG")[:-200], r"cannot be decoded \(.*truncated"),
        ("short.png", encoded("PNG")[:-200], r"cannot be decoded \(.*truncated"),
        ("nul\0.jpg", None, r"cannot be decoded \(.*null"),
        ("n" * 300, None, r"cannot be decoded \(File name too long\)"),
    ],
)
def test_broken_file(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_rgb(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(".")
    assert caught.value.__suppress_context__


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r": is a folder, not a file\.$"):
        load_rgb(tmp_path)


def test_far_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (50, 50)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"bomb\.png: refused, .* exceeds limit"):
        load_rgb(tmp_path / "bomb.png")


def test_lazily_opened_pillow_image() -> None:
    with (
        Image.open(io.BytesIO(encoded("JPEG")[:-200])) as image,
        pytest.raises(ImageError, match=r"^image: cannot be decoded \(.*truncated"),
    ):
        load_rgb(image)


def test_empty_pillow_image() -> None:
    with pytest.raises(ImageError, match=r"^image: empty, size \(0, 5\)\.$"):
        load_rgb(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (NOISE.astype(np.float32), r"expected uint8 .* got float32 of shape \(24, 31, 3\)"),
        (NOISE.astype(np.int64), "got int64"),
        (NOISE.transpose(2, 0, 1), r"shape \(3, 24, 31\)"),
        (NOISE[..., :2], r"shape \(24, 31, 2\)"),
        (NOISE[0, 0], r"shape \(3,\)"),
        (NOISE[None], r"shape \(1, 24, 31, 3\)"),
        (NOISE[:0], r"empty, shape \(0, 31, 3\)"),
    ],
)
def test_wrong_array(array: npt.NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ImageError, match=f"^array: .*{message}"):
        load_rgb(array)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about some of the damage; so it should
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_random_damage_is_never_another_exception(tmp_path: Path, kind: str) -> None:
    """Found: Pillow raises RuntimeError for AVIF and struct.error for EXIF."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    good, path, broken = encoded(kind), tmp_path / "damaged", 0
    chance = random.Random(0)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            bad[chance.randrange(min(400, len(bad)))] = chance.choice([0, 255, 77])
        path.write_bytes(bad)
        try:
            load_rgb(path)
        except ImageError:
            broken += 1
    assert 0 < broken < 150


def test_too_little_memory_is_one_failed_image(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    Image.fromarray(NOISE).save(tmp_path / "a.png")
    for module, name in (("preprocess", "pixels_of"), ("images.decode", "to_rgb")):
        with monkeypatch.context() as patch:
            patch.setattr(f"numclip_runtime.{module}.{name}", fail)
            (result,) = predictor.stream([tmp_path / "a.png"])
        assert str(result).startswith(f"{tmp_path / 'a.png'}: not enough memory to ")
        assert isinstance(result, ImageError)
