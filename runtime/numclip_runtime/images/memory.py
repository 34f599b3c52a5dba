"""The memory that decoding a picture takes, known from its header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageFile

# Largest memory for one image, bytes; each worker decodes one. Assign another to change it.
# A photo of 108 MP takes 432 MB, or 864 MB while it is turned upright.
MAX_MEMORY = 1 << 30
PILLOW_LIMIT = 89_478_485  # pixels, `Image.MAX_IMAGE_PIXELS` unless a caller changes it
# Peak of formats whose decoders hold the whole picture, bytes per pixel beside Pillow's own image;
# measured 12, 13, 8 and 15 at 24 MP; 10-bit pictures need more
_DECODER = {"WEBP": 14, "AVIF": 14, "HEIF": 14}
_MOST_PER_PIXEL = 36  # bytes, of any of them: 4 stored, and 32 for four bands of a PNM
IN_MEMORY = {"WEBP", "AVIF", "HEIF"}  # their readers take the file as a whole, twice
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # others: 4


class RefusedError(ValueError):
    """A picture that is not decoded; the message continues "a.png: refused, "."""


def check_memory(image: ImageFile.ImageFile, full: tuple[int, int], size: int, head: bytes) -> None:
    """Refuse a picture whose decoding and conversion to RGB would take too much memory.

    Args:
        image: Opened, not loaded.
        full: Size of the whole picture, pixels, before `draft`.
        size: Of the file, bytes.
        head: First bytes of the file.
    """
    width, height = full
    most = Image.MAX_IMAGE_PIXELS  # a caller may have lowered it
    if most is not None and most < PILLOW_LIMIT and width * height > 2 * most:
        raise RefusedError(
            f"image of {width} x {height} pixels exceeds limit of {2 * most}, twice Pillow's "
            "MAX_IMAGE_PIXELS"
        )
    kind = image.format
    # A TIFF's tiles may be larger than the picture. For others, this saves 7 us
    if kind != "TIFF" and at_most(full, size) <= MAX_MEMORY:
        return
    pixels, bands = image.width * image.height, len(image.getbands())
    codec = str(image.tile[0][0]) if image.tile else ""
    decoder = _DECODER.get(kind or "", 0) * pixels + 64 * width
    stored = _STORED.get(image.mode, 4)
    if kind in IN_MEMORY:
        decoder += 2 * size
    elif kind == "JPEG":
        decoder += _coefficients(image, full)
    elif kind == "JPEG2000":  # per component of a tile
        decoder += 7 * bands * min(_jpeg2000_tile(head), pixels)
    elif codec == "libtiff":  # the file, and a strip or tile, which may be the whole picture
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        tile = int(tags.get(322, 1)) * int(tags.get(323, 1))
        rows = min(max(int(tags.get(278, height)), 1), height)
        decoder += size + 8 * bands * max(rows * width, tile)
    elif codec in ("ppm", "ppm_plain", "bmp_rle"):  # written in Python
        decoder += 2 * stored * bands * pixels + (256 * width if codec == "bmp_rle" else 0)
    # "I;16" and palettes with transparency go to RGB by way of a second image
    steps = {"RGB": 0, "P": 8, "PA": 8, "I": 5}.get(image.mode, 5 if ";" in image.mode else 4)
    _require(
        stored * pixels + max(decoder, steps * pixels),
        f"an image of {width} x {height} pixels ({kind}, {image.mode})",
    )


def at_most(full: tuple[int, int], size: int) -> int:
    """Return an upper bound of the memory for a picture of any format but TIFF, bytes.

    Args:
        full: Width and height, pixels.
        size: Of the file, bytes.
    """
    return full[0] * (_MOST_PER_PIXEL * full[1] + 320) + 2 * size


def check_turn(image: Image.Image) -> None:
    """Refuse to turn an RGB image if the turned copy does not fit beside it."""
    width, height = image.size
    _require(8 * width * height, f"turning an image of {width} x {height} pixels upright")


def check_whole_file(head: bytes, size: int) -> None:
    """Refuse a file that is too large to be opened: its reader holds it, and a WebP's canvas.

    Args:
        head: First bytes of the file.
        size: Of the file, bytes.
    """
    _require(_DECODER["WEBP"] * _webp_canvas(head) + 2 * size, f"a file of {size} bytes")


def _require(need: float, what: str) -> None:
    if need > MAX_MEMORY:
        raise RefusedError(
            f"{what} takes {need / 1e6:,.0f} MB of memory; the limit is {MAX_MEMORY / 1e6:,.0f} MB"
            ", against decompression bombs"
        )


def _coefficients(image: Any, full: tuple[int, int]) -> int:
    """Return the bytes that a JPEG's decoder keeps if it needs all scans to make the pixels."""
    layers = image.layer  # (id, horizontal sampling, vertical sampling, table)
    if "progressive" not in image.info:
        place = image.fp.tell()
        in_scan = image.fp.read(3)[2:]  # after the marker: length, components of the first scan
        image.fp.seek(place)
        if in_scan == bytes((len(layers),)):
            return 0
    most = max(h for _, h, _, _ in layers) * max(v for _, _, v, _ in layers)
    samples = int(sum(h * v for _, h, v, _ in layers))
    return 2 * full[0] * full[1] * samples // max(int(most), 1)


def _jpeg2000_tile(head: bytes) -> int:
    start = head.find(b"\xff\x4f\xff\x51") + 24  # SIZ: lengths, size, offset; then the tile's size
    side = [int.from_bytes(head[at : at + 4], "big") for at in (start, start + 4)]
    return side[0] * side[1] if start >= 24 and all(side) else 1 << 62


def _webp_canvas(head: bytes) -> int:
    """Return the pixels of a WebP: its reader allocates them when it is opened."""
    if head[12:16] == b"VP8X":
        sides = [int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27)]
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        sides = [(bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1]
    else:
        return 0
    return sides[0] * sides[1]
