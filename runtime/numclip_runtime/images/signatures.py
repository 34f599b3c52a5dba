"""The kind of a file by its first bytes, and the first directory of a TIFF or of EXIF."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from functools import cache
from typing import IO

# Formats that are not read: kind -> (its name, the way out if there is a special one)
FOREIGN = {
    "RAW": ("raw photo of a camera", "convert it to JPEG or TIFF"),
    "JXL": ("JPEG XL file", "convert it to PNG"),
    "PSD": ("Photoshop file", "export it as PNG"),
    "PDF": ("PDF file", "export its pages as PNG"),
    "SVG": ("SVG drawing", "export it as PNG"),
    "EPS": ("EPS file", ""),
    "FITS": ("FITS file", ""),
    "WMF": ("WMF file", ""),
    "EMF": ("EMF file", ""),
    "ICO": ("icon file", ""),
    "ICNS": ("icon file", ""),
    "PCX": ("PCX file", ""),
    "DDS": ("DDS file", ""),
    "BLP": ("BLP file", ""),
    "SGI": ("SGI file", ""),
    "SUN": ("Sun raster file", ""),
    "XPM": ("XPM file", ""),
    "XCF": ("GIMP file", "export it as PNG"),
    "PFM": ("PFM file, with float pixels", "save 8 or 16 bits"),
    "PAM": ("PAM file", "convert it to PNG"),
    "DICOM": ("DICOM file", "export it as PNG"),
    "HDR": ("HDR file, with float pixels", "save 8 or 16 bits"),
    "QOI": ("QOI file", "convert it to PNG"),
    "JXR": ("JPEG XR file", "convert it to PNG"),
    "HDF5": ("HDF5 file", ""),
    "NPY": ("numpy file", "give the array itself, uint8"),
    "FLI": ("FLI animation", ""),
    "MPEG": ("MPEG video", "name it .mpg"),
    "VIDEO": ("video", "give it a name that says so, such as .mp4"),
    "ZIP": ("ZIP archive", "unpack it"),
    "GZIP": ("gzip archive", "unpack it"),
    "HTML": ("HTML page", "the download failed"),
    "LFS": ("Git LFS pointer", "fetch the picture with: git lfs pull"),
    "APPLEDOUBLE": ("file with attributes that macOS made", "the picture lies beside it"),
}
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"IIRO", "RAW"),
    (b"IIRS", "RAW"),
    (b"IIU\0", "RAW"),
    (b"FUJIFILMCCD-RAW", "RAW"),
    (b"FOVb", "RAW"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"SIMPLE  =", "FITS"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\1\0\x09\0", "WMF"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "ICO"),
    (b"icns", "ICNS"),
    (b"DDS ", "DDS"),
    (b"BLP1", "BLP"),
    (b"BLP2", "BLP"),
    (b"\x01\xda", "SGI"),
    (b"\x59\xa6\x6a\x95", "SUN"),
    (b"/* XPM */", "XPM"),
    (b"gimp xcf", "XCF"),
    (b"PF", "PFM"),
    (b"Pf", "PFM"),
    (b"P7\n", "PAM"),
    (b"#?RADIANCE", "HDR"),
    (b"\x76\x2f\x31\x01", "HDR"),
    (b"qoif", "QOI"),
    (b"II\xbc\1", "JXR"),
    (b"\x89HDF", "HDF5"),
    (b"\x93NUMPY", "NPY"),
    (b"\0\0\1\xb3", "MPEG"),
    (b"\0\0\1\xba", "MPEG"),
    (b"\x1aE\xdf\xa3", "VIDEO"),
    (b"FLV\1", "VIDEO"),
    (b"PK\3\4", "ZIP"),
    (b"\x1f\x8b", "GZIP"),
    (b"version https://git-lfs", "LFS"),
    (b"\0\5\x16\7", "APPLEDOUBLE"),
)
_BY_FIRST: dict[int, list[tuple[bytes, str]]] = {}
for _start, _kind in _STARTS:
    _BY_FIRST.setdefault(_start[0], []).append((_start, _kind))
_TEXT = (
    (rb"(?is)\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)", "SVG"),
    (rb"(?i)\s*<(!DOCTYPE html|html|head)", "HTML"),
    (rb"P[1-6](\s|#)", "PPM"),
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
    (rb"(?s)....[\x11\x12]\xaf", "FLI"),
)
# Of the brands in an ISO base media file
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")

_WIDTHS = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def signature(head: bytes) -> str:
    """Return the kind of a file, one that is read or one of `FOREIGN`; "" if unknown.

    Args:
        head: Its first bytes; 512 are enough.
    """
    for start, kind in _BY_FIRST.get(head[0], ()) if head else ():
        if head.startswith(start):
            return "RAW" if kind == "TIFF" and head[8:10] == b"CR" else kind  # Canon's CR2
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "VIDEO"}.get(head[8:12], "")
    if head[40:44] == b" EMF":
        return "EMF"
    if head[128:132] == b"DICM":
        return "DICOM"
    return next((kind for pattern, kind in _patterns() if pattern.match(head)), "")


@cache
def _patterns() -> list[tuple[re.Pattern[bytes], str]]:  # at import, they would take 1 ms
    return [(re.compile(pattern), kind) for pattern, kind in _TEXT]


def _by_brand(head: bytes) -> str:
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
    if brands[0] == b"crx ":
        return "RAW"
    if any(brand in _AVIF for brand in brands) and brands[0] not in _HEIF[:-2]:
        return "AVIF"
    return "HEIF" if any(brand in _HEIF for brand in brands) else "VIDEO"


def tiff_entries(file: IO[bytes]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the entries of the first directory of a TIFF, or of EXIF, which is one.

    Nothing but the directory is read. A damaged one ends early.

    Args:
        file: Its position is at the beginning.

    Yields:
        Tag, bytes per value, number of values, and the first value if it is in the entry itself.
    """
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    where, number, entry = ("Q", "Q", "HHQ8s") if big else ("L", "H", "HHL4s")
    try:
        (place,) = struct.unpack_from(order + where, head, 8 if big else 4)
        file.seek(place)
        (count,) = struct.unpack(order + number, file.read(8 if big else 2))
    except (struct.error, OSError, ValueError, OverflowError):
        return
    size = struct.calcsize(order + entry)
    table = file.read(size * min(count, 65536))
    for tag, kind, values, field in struct.iter_unpack(
        order + entry, table[: len(table) // size * size]
    ):
        width = _WIDTHS.get(kind, 1)
        first = field[: min(width, len(field))]
        yield tag, width, values, int.from_bytes(first, "little" if order == "<" else "big")


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation in EXIF as it stands there; None if there is none.

    Nothing else in it is read: GPS positions and makers' notes are often odd.
    """
    entries = tiff_entries(io.BytesIO(exif.removeprefix(b"Exif\0\0")))
    return next((value for tag, _, _, value in entries if tag == 0x0112), None)
