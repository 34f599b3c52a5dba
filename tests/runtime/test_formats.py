"""Which pictures are opened: by content, whatever the name, and never by a reader of others."""

from __future__ import annotations

import ast
import io
import os
import struct
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import ImageError
from numclip_runtime.images.decode import decode, load_rgb
from numclip_runtime.images.formats import READ, reads_avif
from numclip_runtime.images.signatures import FOREIGN, signature

ROOT = Path(__file__).parents[2]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
GREY = Image.new("RGB", (20, 14), (200, 200, 200))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ftyp(*brands: bytes) -> bytes:
    body = brands[0] + b"\0\0\0\0" + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6" + b"\0" * 28, "EPS"),
        (b"8BPS\0\1" + b"\0" * 30, "PSD"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"\xd7\xcd\xc6\x9a\0\0" + b"\0" * 40, "WMF"),
        (b"\1\0\0\0" + b"\0" * 36 + b" EMF", "EMF"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"icns\0\0\1\0", "ICNS"),
        (b"\x0a\5\1\x08" + b"\0" * 124, "PCX"),
        (b"\0\0\1\xba\x44", "MPEG"),
        (b"BLP2" + b"\0" * 30, "BLP"),
        (b"DDS |\0\0\0", "DDS"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="">', "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        ", "APPLEDOUBLE"),
        (b"\xff\x0a\x00\x00", "JXL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
        (b"Pf\n3 3\n-1.0\n", "PFM"),
        (b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 30, "RAW"),
        (ftyp(b"crx ", b"crx ", b"isom"), "RAW"),
        (ftyp(b"isom", b"mp42"), "VIDEO"),
        (b"\0" * 128 + b"DICM", "DICOM"),
    ],
)
def test_other_formats_are_said_by_name(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(head)
    with pytest.raises(ImageError) as caught:
        load_rgb(path)
    name, way_out = FOREIGN[kind]
    text = str(caught.value)
    assert text.startswith(f"{path}: is a")
    assert name in text
    assert (way_out or READ) in text


def test_ghostscript_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    content = saved(GREY, "EPS")
    for source in (tmp_path / "a.jpg", content):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(ImageError, match="is an EPS file; numclip reads JPEG"):
            load_rgb(source)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["PCX", "ICO", "TGA", "SGI", "PDF", "BLP", "DDS", "XBM"])
def test_what_pillow_alone_would_read_is_refused(tmp_path: Path, kind: str) -> None:
    image = GREY.convert({"BLP": "P", "XBM": "1"}.get(kind, "RGB"))
    (tmp_path / "a.png").write_bytes(saved(image, kind))
    with pytest.raises(ImageError, match=r"; numclip reads|not an image that Pillow|export"):
        load_rgb(tmp_path / "a.png")


def test_image_open_is_called_nowhere_without_formats() -> None:
    """Only what Pillow wrote itself, and the textbook of the benchmark, are opened elsewhere."""
    found = []
    for folder in ("runtime", "numclip", "export", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                    found += [path.name] if "formats" not in {k.arg for k in node.keywords} else []
    assert found == []


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        ((b"avif", b"mif1", b"miaf"), "AVIF"),
        ((b"mif1", b"avif"), "AVIF"),
        ((b"avis", b"msf1"), "AVIF"),
        ((b"heic", b"mif1", b"heic"), "HEIF"),
        ((b"mif1", b"heic"), "HEIF"),
        ((b"msf1", b"hevc"), "HEIF"),
        ((b"qt  ",), "VIDEO"),
    ],
)
def test_brands(brands: tuple[bytes, ...], kind: str) -> None:
    assert signature(ftyp(*brands)) == kind


def test_a_thumbnail_of_a_raw_photo_is_no_photo(tmp_path: Path) -> None:
    """Found: the first picture of a NEF or DNG is a thumbnail of 160 pixels, and was read."""
    GREY.save(tmp_path / "a.nef", "TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageError, match="is a raw photo of a camera; convert it to JPEG or TIFF"):
        load_rgb(tmp_path / "a.nef")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"])
def test_contents_and_binary_files(tmp_path: Path, kind: str) -> None:
    content = saved(NOISE, kind)
    path = tmp_path / "picture"
    path.write_bytes(content)
    expected = np.asarray(load_rgb(path))
    stream = io.BytesIO(content)
    stream.seek(0, 2)  # as after writing
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        sources: list[Any] = [content, bytearray(content), memoryview(content), stream, file, raw]
        for source in sources:
            for _ in range(2):
                np.testing.assert_array_equal(np.asarray(decode(source).image), expected)


@pytest.mark.parametrize("wrong", [None, 7, [1, 2], {"a": 1}, 1.5, object()])
def test_what_is_no_picture_is_one_sentence(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a path, .* got \w+(; several .*)?\.$"):
        load_rgb(wrong)


def test_messages_never_hold_the_picture(tmp_path: Path) -> None:
    small, large = saved(GREY.resize((1, 1)), "PNG"), saved(NOISE, "PNG")
    (tmp_path / "a.png").write_bytes(large)
    for wrong in (small.decode("latin-1"), large.decode("latin-1"), str(large), large[:50]):
        with pytest.raises(ImageError) as caught:
            load_rgb(wrong)
        assert len(str(caught.value)) < 200
        assert "IHDR" not in str(caught.value)
    with (
        (tmp_path / "a.png").open(encoding="latin-1") as text,
        pytest.raises(ImageError, match="opened as text; open it with mode 'rb'"),
    ):
        load_rgb(text)  # type: ignore[arg-type]
    with (tmp_path / "a.png").open("rb") as closed:
        pass
    with pytest.raises(ImageError, match="cannot be read"):
        load_rgb(closed)


def test_a_content_that_became_the_name_of_an_error() -> None:
    """Found by fuzzing: the key of a KeyError was the whole TIFF."""
    corpus = Path(__file__).parents[1] / "fuzz/corpus/images"
    with pytest.raises(ImageError, match="cannot be decoded") as caught:
        load_rgb((corpus / "tiff-content-as-a-key").read_bytes())
    assert len(str(caught.value)) < 100
    assert "b'" not in str(caught.value)


def test_the_other_form_of_an_accent(tmp_path: Path) -> None:
    composed, decomposed = normalize("NFC", "Ärger é.png"), normalize("NFD", "Ärger ü.png")
    for name in (composed, decomposed):
        GREY.save(tmp_path / name)
    assert load_rgb(tmp_path / normalize("NFD", composed)).size == GREY.size
    assert load_rgb(tmp_path / normalize("NFC", decomposed)).size == GREY.size


@pytest.mark.skipif(os.sep != "/", reason="a backslash separates here")
def test_a_backslash_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    GREY.save(tmp_path / "photos" / "a.png")
    with pytest.raises(ImageError, match=r"no such file; .*photos/a\.png is there\.$"):
        load_rgb(f"{tmp_path}/photos\\a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_device_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", tmp_path / "b.jpg", Path("/dev/zero")):
        with pytest.raises(ImageError, match=r": is a pipe, socket or device, not a file\.$"):
            load_rgb(path)


@pytest.mark.skipif(not reads_avif(), reason="this Pillow has no AVIF")
def test_avif_is_turned_once(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 32))
    image.paste((255, 255, 255), (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.avif", exif=exif)
    turned = np.asarray(load_rgb(tmp_path / "a.avif"))
    assert turned.shape == (64, 32, 3)
    assert turned[:12].mean() > 240
    assert turned[20:].mean() < 15


@pytest.mark.parametrize("turns", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_heic_is_turned_once(tmp_path: Path, turns: int, mode: str) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = Image.new(mode, (64, 32))
    image.paste(("white"), (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = turns
    heif.from_pillow(image).save(tmp_path / "a.heic", exif=exif.tobytes())
    upright = np.asarray(load_rgb(tmp_path / "a.heic"))
    white = np.argwhere(upright.mean(2) > 200).mean(0)  # centre, row and column
    expected = {1: (15.5, 7.5), 3: (15.5, 55.5), 6: (7.5, 15.5), 8: (55.5, 15.5)}[turns]
    assert upright.shape[:2] == ((32, 64) if turns < 5 else (64, 32))
    np.testing.assert_allclose(white, expected, atol=1.5)


def test_heic_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util as util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if "heif" in name else find(name))
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(ftyp(b"heic", b"mif1"))
    with pytest.raises(ImageError, match=r"a\.heic: pillow_heif .*pip install 'numclip\[heif\]'"):
        load_rgb(tmp_path / "a.heic")


def test_nothing_is_imported_before_it_is_needed() -> None:
    import subprocess
    import sys

    found = "[m for m in sys.modules if 'heif' in m or 'TiffIm' in m]"
    code = f"import sys, numclip_runtime; print({found})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
