"""Pictures of every kind that a page may be given, made from the photos of scikit-learn."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, features

Array = npt.NDArray[Any]  # uint8 or uint16
ADAM7 = (  # x and y of the first pixel, and the steps to the next
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)


def photos() -> tuple[Image.Image, Image.Image]:
    """Return two photos of 640 x 427 pixels."""
    package = find_spec("sklearn")  # importing it takes seconds
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "datasets/images"
    china, flower = (
        Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")
    )
    return china, flower


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def swapped_profile() -> bytes:
    """Return a colour profile that exchanges red and green: a reader that obeys it is found out."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = (profile.find(name, 128) for name in (b"rXYZ", b"gXYZ"))
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def with_alpha(image: Image.Image) -> Image.Image:
    """Return the picture with a third of it transparent, and the rest more or less."""
    width, height = image.size
    alpha = np.add.outer(np.linspace(0, 255, height), np.linspace(0, 255, width)) / 2
    alpha[: height // 3] = 0
    image = image.copy()
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def png(pixels: Array, colour: int, *, interlaced: bool = False, chunk: bytes = b"") -> bytes:
    """Return a PNG as Pillow cannot write it: 16 bits, interlaced, with a chunk of one's own."""
    height, width = pixels.shape[:2]
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in (ADAM7 if interlaced else ((0, 0, 1, 1),))]
    big = pixels.astype(pixels.dtype.newbyteorder(">")).dtype
    rows = b"".join(
        b"\0" + row.astype(big).tobytes() for part in passes if part.size for row in part
    )
    depth = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = [png_chunk(b"IHDR", header), chunk, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def write_pngs(folder: Path, size: tuple[int, int] = (640, 427)) -> None:
    """Write PNG files of all kinds, which the page decodes by itself."""
    china, flower = (photo.resize(size) for photo in photos())
    small = china.resize((93, 61))
    grey, rng = flower.convert("L"), np.random.default_rng(0)
    pixels = np.asarray(small)
    deep = pixels.astype(np.uint16) * 256 + rng.integers(0, 256, pixels.shape, dtype=np.uint16)
    with_alpha(china).save(folder / "alpha.png")
    with_alpha(grey).save(folder / "grey_alpha.png")
    grey.save(folder / "grey.png")
    grey.convert("1").save(folder / "bits_1.png")
    for bits in (1, 2, 4, 8):
        few = small.quantize(1 << bits)
        few.save(folder / f"palette_{bits}.png", bits=bits, transparency=bytes(range(1 << bits)))
    china.save(folder / "exif_6.png", exif=oriented(6))
    flower.save(folder / "profile.png", icc_profile=swapped_profile())
    china.save(folder / "animated.png", save_all=True, append_images=[flower], default_image=True)
    made = {
        "grey_16": png(deep[..., 0], 0),
        "rgb_16": png(deep, 2, interlaced=True),
        "grey_alpha_16": png(np.ascontiguousarray(deep[..., :2]), 4),
        "rgba_16": png(np.dstack([deep, deep[..., :1]]), 6),
        "interlaced": png(pixels, 2, interlaced=True),
        "interlaced_tiny": png(pixels[:2, :3], 2, interlaced=True),
        "gamma": png(pixels, 2, chunk=png_chunk(b"gAMA", struct.pack(">I", 100_000))),
    }
    for name, content in made.items():
        (folder / f"{name}.png").write_bytes(content)
    for width, height in ((1, 1), (2, 3), (5, 1), (1, 40), (16, 16)):
        china.resize((width, height)).save(folder / f"tiny_{width}x{height}.png")


def write_photos_of_all_kinds(folder: Path) -> list[Path]:
    """Write some 60 pictures, and return their paths."""
    folder.mkdir()
    write_pngs(folder)
    for name, image, options in _others():
        image.save(folder / name, **options)
    return sorted(folder.iterdir())


def _others() -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    china, flower = photos()
    grey = china.convert("L")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="3"/></x:xmpmeta>'
    for orientation in range(1, 9):
        image = (china, flower)[orientation % 2]
        yield f"exif_{orientation}.jpg", image, {"quality": 90, "exif": oriented(orientation)}
    for i, size in enumerate(((641, 427), (333, 500), (1023, 769), (257, 255))):
        options: dict[str, Any] = {"quality": (95, 75, 60, 100)[i], "subsampling": (0, 1, 2, 2)[i]}
        yield f"odd_{size[0]}x{size[1]}.jpg", flower.resize(size), options
    yield "progressive.jpg", china, {"progressive": True}
    yield "low.jpg", china, {"quality": 12}
    yield "grey.jpg", grey, {}
    yield "cmyk.jpg", flower.convert("CMYK"), {}
    yield "profile.jpg", china, {"icc_profile": swapped_profile()}
    yield "xmp_3.jpg", china, {"xmp": xmp}
    yield "tiny.jpg", china.resize((3, 5)), {}
    wide = Image.new("RGB", (3000, 300))
    for i in range(5):
        wide.paste((china, flower)[i % 2].resize((600, 300)), (600 * i, 0))
    yield "panorama.jpg", wide, {"quality": 88}
    yield "tall.jpg", wide.rotate(90, expand=True), {"quality": 88}
    yield "ribbon.png", wide.resize((1900, 60)), {}
    yield "needle.png", wide.resize((12, 1200)), {}
    yield "12mp.jpg", wide.resize((4000, 3000)), {"quality": 88, "exif": oriented(6)}
    yield "lossy.webp", china, {"quality": 80}
    yield "lossless.webp", flower, {"lossless": True}
    yield "alpha.webp", with_alpha(china), {"exact": True}
    yield "alpha_lossless.webp", with_alpha(flower), {"lossless": True, "exact": True}
    yield "exif_8.webp", flower, {"exif": oriented(8), "icc_profile": swapped_profile()}
    yield "still.gif", china.quantize(128), {}
    yield "transparent.gif", flower.quantize(64), {"transparency": 3}
    yield "plain.bmp", china, {}
    if features.check("avif"):
        yield "photo.avif", flower, {}
        yield "alpha.avif", with_alpha(china), {}
        yield "exif_5.avif", china, {"exif": oriented(5)}
