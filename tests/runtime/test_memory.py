"""Pictures that would take too much memory are refused before they are decoded."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import ImageError
from numclip_runtime.images import memory
from numclip_runtime.images.decode import load_rgb
from numclip_runtime.images.formats import reads_avif
from tests.zeros import zeros

# For each picture: the peak beyond the program itself, MB, and what came of it
PEAK = """
import re, resource, sys
import numpy, PIL.features
from numclip_runtime.images.decode import load_rgb
from numclip_runtime.images.formats import reads_avif
from numclip_runtime.errors import ImageError
for name in ("Jpeg", "Png", "Tiff", "WebP", "Bmp", "Gif", "Jpeg2K", "Ppm", "Avif"):
    try:
        __import__(f"PIL.{name}ImagePlugin")
    except ImportError:
        pass
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

def megabytes(key):
    return int(re.search(rf"{key}:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak
    before = megabytes("VmRSS")
    try:
        said = str(load_rgb(path).size)
    except ImageError as error:
        said = str(error)
    print(megabytes("VmHWM") - before, said, sep="\\t")
"""


PEAKS = pytest.mark.posix("it limits the address space, and reads the peak from /proc")


def peaks_of(*paths: Path) -> list[tuple[float, str]]:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, paths)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back at once
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [(float(megabytes), said) for megabytes, said in lines]


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """Return a PNG with black pixels."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    data = zeros(height * (1 + (width * bits * samples + 7) // 8))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    signature = b"\x89PNG\r\n\x1a\n"
    return b"".join(
        (signature, chunk(b"IHDR", head), extra, palette, chunk(b"IDAT", data), chunk(b"IEND", b""))
    )


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claim_size(jpeg: bytes, width: int, height: int, marker: bytes = b"\xff\xc0") -> bytes:
    at = jpeg.index(marker) + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def tiff_bomb() -> bytes:
    """Return a TIFF of 1.8 MB, 65,000 of whose tags point to the same megabyte."""
    count, place = 65_000, 8 + 2 + 12 * 65_000 + 4
    entries = b"".join(struct.pack("<HHII", 300 + i, 1, 1 << 20, place) for i in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes((1 << 20) + 4)


def exif_segments() -> bytes:
    """Return the segments of a JPEG that Pillow joins to one EXIF of 1.8 MB."""
    bomb = tiff_bomb()
    pieces = [bomb[at : at + 65_000] for at in range(0, len(bomb), 65_000)]
    return b"".join(
        b"\xff\xe1" + struct.pack(">H", len(piece) + 8) + b"Exif\0\0" + piece for piece in pieces
    )


BOMBS: dict[str, Callable[[], bytes]] = {
    "grey of 16 bits, 177 MP": lambda: png(13_300, 13_300, bits=16),
    "RGB of 300 MP": lambda: png(17_400, 17_400, colour=2, bits=8),
    "RGBA of 16 bits, 150 MP": lambda: png(12_300, 12_300, colour=6, bits=8),
    "one bit, 400 MP": lambda: png(20_000, 20_000, bits=1),
    "one row": lambda: png(60_000_000, 1, colour=6, bits=16),
    "progressive JPEG": lambda: claim_size(
        saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True, subsampling=0),
        *(13_000, 13_000),
        marker=b"\xff\xc2",
    ),
    "CMYK JPEG": lambda: claim_size(saved(Image.new("CMYK", (64, 64)), "JPEG"), 13_000, 13_000),
    "many tags": tiff_bomb,
    "WebP": lambda: b"RIFF\0\0\1\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0\xff\x3f\0" + bytes(99),
    "GIF": lambda: (
        (gif := saved(Image.new("P", (9, 9)), "GIF"))[:6] + b"\xff\xff\xff\xff" + gif[10:]
    ),
    "PNM": lambda: b"P6 20000 20000 255\n" + bytes(100),
    "plain PNM": lambda: b"P3 9000 9000 255\n" + b"0 " * 100,
    "BMP": lambda: (
        (bmp := saved(Image.new("L", (9, 9)), "BMP"))[:18] + struct.pack("<ii", 20_000, 20_000)
        + bmp[26:]
    ),
}  # fmt: skip


@PEAKS
def test_bombs_are_refused_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jpg" for name in BOMBS]
    for path, content in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(content())
    for path, (megabytes, said) in zip(paths, peaks_of(*paths), strict=True):
        assert said.startswith(f"{path}: refused, ")
        assert megabytes < 60, said


def bombs_in_exif() -> Iterator[bytes]:
    image = Image.new("RGB", (64, 48), "white")
    plain = saved(image, "JPEG")
    yield plain[:2] + exif_segments() + plain[2:]
    yield png(64, 48, extra=chunk(b"eXIf", tiff_bomb()))
    yield saved(image, "WEBP", exif=b"Exif\0\0" + tiff_bomb())
    if reads_avif():
        exif = Image.Exif()
        exif[0x010F] = "x" * len(tiff_bomb())
        content = saved(image, "AVIF", exif=exif)
        at = content.index(b"x" * 99)
        start = content.rindex(b"MM\0*", 0, at)
        yield content[:start] + tiff_bomb() + content[start + len(tiff_bomb()) :]


@PEAKS
def test_exif_that_repeats_itself(tmp_path: Path) -> None:
    """Found: 1.8 MB of EXIF became 65 GB, since each of its entries may be the same megabyte."""
    paths = []
    for number, content in enumerate(bombs_in_exif()):
        paths.append(tmp_path / f"{number}")
        paths[-1].write_bytes(content)
    for megabytes, said in peaks_of(*paths):
        assert said == "(64, 48)"
        assert megabytes < 40


@PEAKS
def test_a_tile_larger_than_its_picture(tmp_path: Path) -> None:
    content = bytearray(saved(Image.new("L", (80, 80)), "TIFF", compression="tiff_lzw"))
    with Image.open(io.BytesIO(content)) as image:
        tags: Any = image.tag_v2
        strip = tags[273][0], tags[279][0]
    entries = {256: 80, 257: 80, 258: 8, 259: 5, 262: 1, 277: 1}
    entries |= {322: 40_000, 323: 40_000, 324: strip[0], 325: strip[1]}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries.items())
    place = len(content)
    content[4:8] = struct.pack("<I", place)
    content += struct.pack("<H", len(entries)) + directory + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    ((megabytes, said),) = peaks_of(tmp_path / "a.tif")
    assert "a.tif: refused, an image of 80 x 80 pixels" in said
    assert megabytes < 40


@PEAKS
def test_text_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    packed = zeros(600 << 20)
    paths = []
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
        body = b"key\0" + {b"iTXt": b"\1\0\0\0"}.get(kind, b"\0") + packed
        paths.append(tmp_path / f"{kind.decode()}.png")
        paths[-1].write_bytes(png(64, 48, extra=chunk(kind, body)))
    for megabytes, said in peaks_of(*paths):
        assert said == "(64, 48)"
        assert megabytes < 40


def test_metadata_without_end(tmp_path: Path) -> None:
    segment = b"\xff\xef\xff\xff" + bytes(65_533)
    plain = saved(Image.new("RGB", (8, 8)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(plain[:2] + segment * 1200 + plain[2:])  # 79 MB
    comment = b"\x21\xfe" + (b"\xff" + bytes(255)) * 5000 + b"\0"
    gif = saved(Image.new("L", (8, 8)), "GIF")
    (tmp_path / "a.gif").write_bytes(gif[:-1][: gif.index(b",")] + comment + gif[gif.index(b",") :])
    (tmp_path / "a.ppm").write_bytes(b"P6 #" + b"x" * (2 << 20) + b"\n8 8 255\n" + bytes(192))
    for name in ("a.jpg", "a.gif", "a.ppm"):
        with pytest.raises(
            ImageError, match=r"refused, its metadata takes too much memory|cannot be"
        ):
            load_rgb(tmp_path / name)


MEGAPIXELS = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (125, 200, 3), dtype=np.uint8)
).resize((4000, 2500), Image.Resampling.BICUBIC)  # 10 MP


KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGBA", {"compress_level": 1}),
    ("PNG", "P", {"compress_level": 1, "transparency": 3}),
    ("PNG", "I;16", {"compress_level": 1}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
    ("WEBP", "RGB", {"method": 0}),
    ("WEBP", "RGBA", {"method": 0}),
    ("PPM", "L", {}),
    ("BMP", "RGB", {}),
    ("GIF", "P", {}),
]


@PEAKS
def test_the_estimate_is_not_below_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 megapixels; and not three times as large, which would refuse good pictures."""
    paths = [tmp_path / f"{number}-{kind}-{mode}" for number, (kind, mode, _) in enumerate(KINDS)]
    for path, (kind, mode, options) in zip(paths, KINDS, strict=True):
        image = MEGAPIXELS.convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        path.write_bytes(saved(image, kind, **options))
    needs: list[float] = []
    monkeypatch.setattr(memory, "_require", lambda need, what: needs.append(need / 2**20))
    bound = memory.at_most
    monkeypatch.setattr(memory, "at_most", lambda full, size: memory.MAX_MEMORY + 1)
    for path, (megabytes, said) in zip(paths, peaks_of(*paths), strict=True):
        assert said == f"{MEGAPIXELS.size}"
        needs.clear()
        load_rgb(path)
        assert megabytes < max(needs) + 8, path.name
        assert max(needs) < 3 * megabytes + 8, path.name
        most = bound(MEGAPIXELS.size, path.stat().st_size) / 2**20
        assert max(needs) <= most or "TIFF" in path.name, path.name


def test_a_photo_of_108_megapixels_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """12,000 x 9,000, as telephones write them; the header is enough to know."""
    needs: list[float] = []

    def stop(need: float, what: str) -> None:
        needs.append(need)
        raise memory.RefusedError("enough")

    monkeypatch.setattr(memory, "_require", stop)
    with pytest.raises(ImageError, match="enough"):
        load_rgb(claim_size(saved(Image.new("RGB", (640, 480)), "JPEG"), 12_000, 9_000))
    turned = 8 * 12_000 * 9_000
    assert needs[0] < turned < memory.MAX_MEMORY


def test_the_limit_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(Image.new("RGB", (100, 100)), "PNG")
    monkeypatch.setattr(memory, "MAX_MEMORY", 39_999)
    with pytest.raises(ImageError, match="refused, an image of 100 x 100 pixels"):
        load_rgb(content)
    monkeypatch.setattr(memory, "MAX_MEMORY", 50_000)
    assert load_rgb(content).size == (100, 100)
