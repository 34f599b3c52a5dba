"""The picture formats that are opened: judged by content, within a limit of memory.

Pillow alone goes by content as well, and would start Ghostscript for an EPS that is called a.jpg.
Here the first bytes choose one of the formats below, and only its reader ever sees the file. The
memory is estimated from the header, before a pixel is decoded.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from PIL import Image

from numclip_runtime.errors import import_extra
from numclip_runtime.files import open_regular
from numclip_runtime.images.memory import (
    IN_MEMORY,
    RefusedError,
    check_memory,
    check_whole_file,
)
from numclip_runtime.images.signatures import FOREIGN, signature, tiff_entries

if TYPE_CHECKING:
    from PIL import ImageFile  # with `logging`, 3 ms

# Bytes of metadata that are read before the pixels. Pillow reads those of GIF, PNM and BMP in slow
# loops, so they get less.
_MAX_HEADER = {"GIF": 1 << 20, "PPM": 1 << 20, "BMP": 1 << 20}
_MAX_METADATA = 64 << 20
_MAX_TIFF_TAGS = 256 << 20  # bytes; Photoshop keeps its layers there
_MAX_STRIPS = 1 << 18
# Pillow's class for each format; that of HEIF is pillow-heif's. An MPO begins with a JPEG, which is
# read.
_PLUGINS = {
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
}
AVIF_WAY_OUT = "pip install 'pillow>=11.3'"
READ = "JPEG, PNG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000, PNM and, with 'numclip[heif]', HEIC"
# The suffixes of those formats; a folder is searched for them
IMAGE_SUFFIXES = frozenset(
    (".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe")
) | frozenset((".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm"))
IMAGE_SUFFIXES |= {".tif", ".tiff", ".webp"}
HEIF_SUFFIXES = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))

Source: TypeAlias = str | os.PathLike[str] | bytes


class ForeignFormatError(ValueError):
    """A file that is not a picture of these formats; the message continues "a.png: "."""


@dataclass(frozen=True)
class Opened:
    """A picture whose pixels have not been decoded."""

    image: Image.Image  # of the class of Pillow's plugin
    size: tuple[int, int]  # width and height of the file's picture, as stored; pixels
    scale: int  # divisor of both sides once it is decoded; the results are rounded up


@contextmanager
def open_image(source: Source, *, least: int | None = None) -> Iterator[Opened]:
    """Open a picture without decoding it; its pixels fit into `MAX_MEMORY`.

    Args:
        source: Path of a regular file, or the content of one.
        least: Pixels that both sides keep at least; a JPEG will be decoded at a half, a quarter or
            an eighth of its size. None: at its own size.

    Yields:
        The image, which can be loaded inside the block only.

    Raises:
        OSError: if the file cannot be read, or is a folder, pipe, socket or device.
        ForeignFormatError: if its content is not of the formats that are read.
        RefusedError: if it needs too much memory.
        MissingDependencyError: if it is HEIC and pillow-heif is not installed.
        Exception: as many types as Pillow has plugins, if it is broken.
    """
    with open_source(source) as file:
        if not (head := file.read(512)):
            raise ForeignFormatError("the file is empty")
        size = len(source) if isinstance(source, bytes) else os.fstat(file.fileno()).st_size
        kind = signature(head)
        left = _MAX_HEADER.get(kind, _MAX_METADATA)
        # Metering costs 40 us; a small file cannot exceed its limit. A TIFF's reader must not see
        # the file itself, which it would map: if that is cut off meanwhile, the process dies.
        small = size <= left and kind != "TIFF"
        if kind == "TIFF":
            _check_tiff(file)
            left = 2 * _MAX_TIFF_TAGS
        elif kind in IN_MEMORY:
            check_whole_file(head, size)
            left = size
        file.seek(0)
        metered = None if small else _Metered(file, left)
        with _opened(kind, cast("BinaryIO", metered or file)) as image:
            full, scale = image.size, 1
            if (
                least is not None
                and kind == "JPEG"
                and (drafted := image.draft(None, (least,) * 2))
            ):
                scale = round(full[0] / drafted[1][2])
            check_memory(image, full, size, head)
            if metered is not None:
                # A PNG's reader keeps what follows the pixels, a TIFF's reads strips by themselves
                rest = size if kind != "PNG" else 0
                metered.left = 8 * full[0] * full[1] + rest + _MAX_METADATA
            yield Opened(image, full, scale)


def open_source(source: Source) -> BinaryIO:
    """Open a file, also under the other form of its name, or a content.

    macOS writes an "é" in names as two characters, and other systems as one.

    Raises:
        OSError: as `open_regular`.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return open_regular(source)
    except FileNotFoundError:
        from unicodedata import normalize

        name = os.fspath(source)
        for form in ("NFC", "NFD"):
            if (other := normalize(form, name)) != name and Path(other).exists():
                return open_regular(other)
        raise


def _check_tiff(file: BinaryIO) -> None:
    """Refuse a TIFF that is a raw photo, or whose tags take too much memory.

    65,535 entries may all point to the same megabyte, of which Pillow would make 65,535 copies.
    """
    file.seek(0)
    total = 0
    for tag, width, count, value in tiff_entries(file):
        total += width * count
        if total > _MAX_TIFF_TAGS or (tag in (273, 279, 324, 325) and count > _MAX_STRIPS):
            raise RefusedError("a TIFF with this many tags takes too much memory")
        # Its first picture is a thumbnail (tag 254), as in NEF, DNG and ARW
        if tag == 50706 or (tag == 254 and value & 1):
            raise ForeignFormatError(foreign("RAW"))


def _opened(kind: str, file: BinaryIO) -> ImageFile.ImageFile:
    if kind == "HEIF":
        return cast("ImageFile.ImageFile", import_extra("heif", "pillow_heif").HeifImageFile(file))
    if kind not in _PLUGINS:
        raise ForeignFormatError(foreign(kind))
    if kind != "AVIF":
        return _plugin(kind)(file)
    if not reads_avif():
        raise ForeignFormatError(f"an AVIF file, and this Pillow does not read it; {AVIF_WAY_OUT}")
    # Pillow reads EXIF only to give it the orientation of the file's own properties; as in a TIFF,
    # its entries may all point to the same bytes. Renamed, it is not read.
    infe = rb"(infe[\x02\x03]...(?:....|......))Exif"
    return _plugin(kind)(io.BytesIO(re.sub(infe, rb"\1free", file.read(), flags=re.DOTALL)))


def foreign(kind: str) -> str:
    """Return why a file of this kind is not read, for the end of a sentence about it."""
    if not kind:
        return "not an image that Pillow can read"
    name, way_out = FOREIGN[kind]
    article = "an" if name[0] in "AEFHILMNORSX" and name[:2].isupper() else "a"
    return f"is {article} {name}; {way_out or f'numclip reads {READ}'}"


def reads_avif() -> bool:
    """Return whether this Pillow reads AVIF; its wheels do since 11.3."""
    from PIL import features

    return "avif" in features.modules and bool(features.check("avif"))


@cache
def _plugin(kind: str) -> type[ImageFile.ImageFile]:
    module, name = _PLUGINS[kind]
    plugin: type[ImageFile.ImageFile] = getattr(import_module(f"PIL.{module}"), name)
    if kind == "JPEG":
        # 65,535 entries of EXIF may point to the same bytes; Pillow reads it for the resolution
        return type("_Jpeg", (plugin,), {"getexif": lambda self: Image.Exif()})
    if kind == "TIFF":
        deep = {"_setup": lambda self: _set_up_deep_grey(plugin, self)}
        return type("_Tiff", (plugin,), {"load_end": _keep_orientation, **deep})
    return plugin


def _set_up_deep_grey(plugin: Any, image: Any) -> None:
    """Let Pillow read 12 or 16 bits with 0 as white, if it refuses them, as if 0 were black."""
    tags, bits = image.tag_v2, image.tag_v2.get(258, (1,))
    image.white_is_zero = tags.get(262) == 0 and bits in ((12,), (16,), 12, 16)
    if image.white_is_zero:
        tags[262] = 1
    plugin._setup(image)


def _keep_orientation(image: Any) -> None:
    """Leave a TIFF as it is stored; Pillow would turn it, and fail on odd EXIF."""
    image._size = image.im.size


class _Metered:
    """A file of which only `left` more bytes may be read."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.left = left
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        whole = size < 0 or size > self.left
        data = self._file.read(self.left + 1 if whole else size)
        self.left -= len(data)
        if self.left < 0:
            raise RefusedError("its metadata takes too much memory")
        return data

    def readline(self) -> bytes:  # ends within the limit
        data = self._file.readline(self.left + 1)
        self.left -= len(data)
        return data

    def close(self) -> None:
        """Do nothing: `open_image` closes the file."""
