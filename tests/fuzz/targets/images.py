"""Pictures of all formats, decoded exactly and at a smaller size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from numclip_runtime.images.decode import decode
from tests.fuzz.harness import FindingError, refusals, written

FUZZED_PIXELS = 1 << 20  # larger pictures are legal, and would only make a fuzzer slow
DATA = Path(__file__).parents[2] / "data"


def prepare() -> None:
    """Refuse pictures that are merely large; called by the fuzzer only."""
    Image.MAX_IMAGE_PIXELS = FUZZED_PIXELS


def target(data: bytes) -> None:
    path = written(data, "")
    for least in (None, 8):
        with refusals():
            decoded = decode(path, least=least)
            if decoded.image.mode != "RGB" or 0 in decoded.image.size:
                raise FindingError(f"{decoded.image.mode} of {decoded.image.size}")
            decoded.image.tobytes()


def seeds() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned
    grey = rgb.convert("L")
    sixteen = Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))
    frames = {"save_all": True, "append_images": [rgb.rotate(90, expand=True)]}
    for image, kind, options in (
        (rgb, "PNG", {}),
        (rgb.convert("RGBA"), "PNG", {"dpi": (72, 72)}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (rgb.convert("1"), "PNG", {}),
        (sixteen, "PNG", {}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True, "quality": 30}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.resize((64, 64)), "MPO", frames),
        (rgb.convert("P"), "GIF", frames),
        (rgb, "WEBP", {"exif": exif}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        (rgb, "AVIF", {}),
        (rgb, "JPEG2000", {}),
        (rgb, "BMP", {}),
        (rgb.convert("P"), "BMP", {}),
        (rgb, "PPM", {}),
        (rgb.convert("1"), "PPM", {}),
        (rgb, "TIFF", {}),
        (grey, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (sixteen, "TIFF", {"compression": "tiff_deflate"}),
        (rgb.convert("RGBA"), "TIFF", {"compression": "packbits"}),
        (rgb.convert("F").convert("I"), "TIFF", {}),
        (rgb, "HEIF", {}),
        (rgb, "JXL", {}),
    ):
        file = io.BytesIO()
        try:
            image.save(file, kind, **options)
        except (KeyError, OSError, ImportError):  # a format that this Pillow does not write
            continue
        yield file.getvalue()
    # Formats that Pillow knows and numclip does not mean
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    yield b"8BPS\0\1" + bytes(6) + b"\0\3" + b"\0\0\0\10" * 2 + b"\0\10\0\3" + bytes(12)
    yield b"SIMPLE  =                    T" + b" " * 50 + b"END" + b" " * 77
