"""Decode an image file, a Pillow image or an array to upright 8-bit RGB.

Exactly, as training reads its images, or fast: JPEGs much larger than the network's input are
decoded at 1/2, 1/4 or 1/8 of their size, which skips most of the work per pixel.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from numclip_runtime.errors import ImageError, NumclipError, first_line
from numclip_runtime.images.formats import ForeignFormatError, open_image, open_source
from numclip_runtime.images.memory import RefusedError, check_turn
from numclip_runtime.images.rgb import to_rgb
from numclip_runtime.images.signatures import exif_orientation, signature


class BinaryFile(Protocol):
    """An open binary file; where it has a `name`, messages give that."""

    def read(self, limit: int, /) -> bytes:
        """Return at most that many bytes."""


# A path, the content of a file, a binary file, a Pillow image, or an array: (H, W, 3) uint8 RGB or
# (H, W) grey
ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | BinaryFile | Image.Image | npt.NDArray[np.uint8]
)
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom; pixels

MAX_CONTENT = 512 << 20  # bytes; of a file that is open already, or is mended
LONGEST_PATH = 4096  # characters; a longer one is a picture as text, which no message may repeat
LONGEST_REASON = 300  # characters
SEVERAL = "; several images go to predict_batch, or to stream if they are many"
_UPRIGHT = 1
_TURNS = {  # EXIF's orientation -> what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow keeps EXIF and XMP; both of them tell the orientation
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_STRIP = 1 << 20  # pixels of which a checksum is made at a time


@dataclass(frozen=True)
class Decoded:
    """A decoded image; `image` may be the caller's own, so it must not be changed."""

    image: Image.Image  # RGB, upright
    # The part that shows the photo: all, or a fraction of a pixel less if a size was not divisible.
    # Including that fraction would shift the image: 38 dB PSNR instead of 47 at worst
    box: Box
    scale: int  # divisor of each side: 1 (decoded exactly), 2, 4 or 8


def load_rgb(source: ImageLike) -> Image.Image:
    """Open and decode an image as 8-bit RGB, turned upright by its EXIF orientation.

    Args:
        source: Path, bytes of a file, binary file (read from its beginning), Pillow image (any
            mode), or uint8 array (H, W, 3) RGB or (H, W) grey.

    Returns:
        An image of its own, never the one that was given.

    Raises:
        ImageError: if the file is missing, not an image, truncated, or far too large.
    """
    image = decode(source).image
    return image.copy() if image is source else image


def decode(source: ImageLike, *, least: int | None = None) -> Decoded:
    """Open and decode an image as upright 8-bit RGB, without unnecessary copies.

    Args:
        source: As in `load_rgb`.
        least: Pixels that both sides should keep; JPEG files may be decoded at a half, a quarter or
            an eighth of their size. None: exactly.

    Raises:
        ImageError: as `load_rgb`.
    """
    if isinstance(source, np.ndarray):
        return _whole(_from_array(source))
    if isinstance(source, Image.Image):
        return _whole(_from_pillow(source))
    name, given = _named(source)
    try:
        try:
            return _decoded(given, least)
        except (SyntaxError, ValueError, OSError) as error:
            return _mended(given, least, error)
    except Exception as error:
        raise image_error(name, error) from None


def image_error(path: str | os.PathLike[str], error: Exception) -> ImageError:
    """Return the error for a file that Pillow could not open or decode.

    Args:
        path: Of the file.
        error: Of a broken file, any type: plugins raise RuntimeError (AVIF), struct.error (EXIF).
    """
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
        if os.sep == "/" and "\\" in (name := os.fspath(path)):
            other = name.replace("\\", "/")
            reason += f"; {other} is there" if os.path.exists(other) else ""  # noqa: PTH110
        if os.fspath(path).startswith(("http://", "https://")):
            reason = "is an address on the web; give the picture's bytes, or download it first"
    elif isinstance(error, ForeignFormatError):
        reason = str(error)
    elif isinstance(error, RefusedError):
        reason = f"refused, {error}"
    elif isinstance(error, NumclipError):
        reason = str(error).rstrip(".")
    elif isinstance(error, MemoryError):
        reason = "not enough memory to decode it"
    elif isinstance(error, OSError) and (error.strerror or "").startswith("is a "):
        reason = str(error.strerror)  # see open_regular
    else:
        why = getattr(error, "strerror", None) or first_line(error)
        # the key of a KeyError may be the content: b'II*\\x00...
        why = "damaged" if why.startswith(("b'", 'b"')) or len(why) > LONGEST_REASON else why
        why = why.replace(" (", ", ").replace(")", "")  # "truncated (1 bytes not processed)"
        reason = f"cannot be decoded ({why})"
    return ImageError(f"{path}: {reason}.")


def _named(source: object) -> tuple[str, str | bytes]:
    """Return the name of a picture for messages, and its path or content.

    Raises:
        TypeError: if it is neither a path nor a file nor a content.
        ImageError: if it cannot be one; never with the content.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes", bytes(source)
    if isinstance(source, (str, os.PathLike)):
        path = source if isinstance(source, str) else os.fsdecode(source)
        if len(path) > LONGEST_PATH or ("\0" in path and _is_picture(path)):
            raise ImageError(
                f"text of {len(path)} characters: not a path; give the content of a file as bytes."
            )
        return path, path
    if not hasattr(source, "read"):
        several = isinstance(source, Iterable)
        raise TypeError(
            "expected a path, the bytes of a file, a binary file, a Pillow image or an array, got "
            f"{type(source).__name__}{SEVERAL if several else ''}."
        )
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) and len(given) <= LONGEST_PATH else "file"
    try:
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)  # type: ignore[attr-defined]  # as Pillow does
        content = source.read(MAX_CONTENT + 1)
    except UnicodeDecodeError:
        content = ""
    except Exception as error:  # of any class of file
        if isinstance(error, NumclipError):  # of an object of a store
            raise
        raise ImageError(f"{name}: cannot be read ({first_line(error)}).") from None
    if not isinstance(content, (bytes, bytearray)):
        raise ImageError(f"{name}: opened as text; open it with mode 'rb'.")
    if len(content) > MAX_CONTENT:
        raise ImageError(f"{name}: is larger than {MAX_CONTENT:,} bytes; give its path.")
    return name, bytes(content)


def _is_picture(text: str) -> bool:
    return bool(signature(text[:64].encode("latin-1", "replace")))


def _decoded(source: str | bytes, least: int | None) -> Decoded:
    with open_image(source, least=least) as opened:
        opened.image.load()  # first: some formats keep EXIF behind the pixels
        orientation, size, scale = _orientation(opened.image), opened.size, opened.scale
        rgb = to_rgb(opened.image)
    del opened  # an image of another mode is no longer needed
    upright = _upright(rgb, orientation)
    if scale == 1:
        return _whole(upright)
    width, height = (side / scale for side in (size if orientation < 5 else size[::-1]))
    # The superfluous fraction is at the file's right and lower edges, wherever they were turned to
    left = upright.width - width if orientation in (2, 3, 6, 7) else 0.0
    top = upright.height - height if orientation in (3, 4, 7, 8) else 0.0
    return Decoded(upright, (left, top, left + width, top + height), scale)


def _mended(source: str | bytes, least: int | None, error: Exception) -> Decoded:
    """Decode what Pillow refused, if all pixels are there; else raise `error` again."""
    hopeless = isinstance(error, (RefusedError, ForeignFormatError)) or (
        isinstance(error, OSError) and error.errno is not None
    )
    if hopeless:
        raise error
    from numclip_runtime.images.mend import mended

    with open_source(source) as file:
        content = file.read(MAX_CONTENT)
    found, digests = None, set()
    for other in mended(content):
        found = None  # one at a time in memory
        found = _decoded(other, least)
        digests.add(_digest(found.image))
    if found is None or len(digests) > 1:
        raise error
    return found


def _digest(image: Image.Image) -> int:
    width, height = image.size
    rows, digest = max(1, _STRIP // width), 0
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        digest = zlib.crc32(strip.tobytes(), digest)
    return digest


def _whole(image: Image.Image) -> Decoded:
    return Decoded(image, (0, 0, *image.size), 1)


def _from_pillow(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"image: empty, size {image.size}.")
    try:
        image.load()
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
        except Exception:  # odd EXIF
            orientation = _orientation(image)
        return _upright(to_rgb(image), orientation)
    except Exception as error:  # Pillow decodes only now; see `image_error`
        raise ImageError(f"image: cannot be decoded ({first_line(error)}).") from None


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise ImageError(
            f"array: expected uint8 of shape (H, W, 3) RGB or (H, W) grey, "
            f"got {array.dtype} of shape {array.shape}."
        )
    if array.size == 0:
        raise ImageError(f"array: empty, shape {array.shape}.")
    return to_rgb(Image.fromarray(array))


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an RGB image; `exif_transpose` writes EXIF anew, and fails where that is odd."""
    if orientation not in _TURNS:
        return image
    check_turn(image)
    turned = image.transpose(_TURNS[orientation])
    for key in _ORIENTED:  # true no longer
        turned.info.pop(key, None)
    return turned


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of a loaded image as stored; 1 if there is none."""
    if image.format == "HEIF":  # turned by its reader
        return _UPRIGHT
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and tags is not None:
        value = tags.get(ExifTags.Base.Orientation, _UPRIGHT)
        return value if isinstance(value, int) else _UPRIGHT
    exif, found = image.info.get("exif"), None
    if exif is None and (text := image.info.get("Raw profile type exif")):  # ImageMagick
        with suppress(ValueError, TypeError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    if isinstance(exif, bytes):
        found = exif_orientation(exif)
    if found is None and image.format != "AVIF":  # whose own property counts
        xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
        if xmp:
            xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
            match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
            found = int(match[1]) if match else None
    return found or _UPRIGHT
