"""Small files that ask for much memory or time, each refused within 1 GiB.

`python -m tests.faults.bombs` prints the table: the size of the file, the peak of the process that
refused it, and what it said.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.faults.peak import Peak, peaks_of
from tests.zeros import zeros

SIDE = 13_300  # pixels: 177 megapixels, just below Pillow's own limit
LIMIT_MIB = 1024
DATA = Path(__file__).parents[1] / "data"

OPEN_PICTURE = "from numclip_runtime.images.decode import load_rgb; load_rgb({path!r})"
OPEN_MODEL = "from numclip_runtime import load; load({path!r}).predict({photo!r})"
READ_METADATA = (
    "from numclip_runtime.model_files.model_file import read_metadata; read_metadata({path!r})"
)
OPEN_CHECKPOINT = (
    "from pathlib import Path; from numclip.checkpoint import load_checkpoint;"
    " load_checkpoint(Path({path!r}))"
)
OPEN_WEIGHTS = (
    "from pathlib import Path; from numclip.weights.reading import read_content;"
    " read_content(Path({path!r}))"
)
OPEN_TASK = "from numclip.tasks import load_task; load_task({path!r})"


@dataclass(frozen=True)
class Bomb:
    """A hostile file."""

    name: str  # of the file
    make: Callable[[Path], None]
    reader: str  # Python, with {path} and {photo}
    torch: bool = False
    refused: bool = True  # False: it is within the limits, and may be read; its peak counts as well


def _png(path: Path, depth: int, colour: int, text: bytes = b"", side: int = SIDE) -> None:
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = 1 + side * channels * depth // 8

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *([chunk(b"zTXt", text)] if text else [])]
    parts += [chunk(b"IDAT", zeros(row * side)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _webp(path: Path) -> None:
    """Write a lossless WebP of one colour: its pixels take no bits."""
    bits = [(SIDE - 1, 14), (SIDE - 1, 14), (1, 1), (0, 3), (0, 1), (0, 1), (0, 1)]
    bits += [(1, 1), (0, 1), (0, 1), (0, 1)] * 5  # five codes of a single symbol
    number = place = 0
    for value, width in bits:
        number |= value << place
        place += width
    body = b"\x2f" + number.to_bytes((place + 7) // 8 + 8, "little")
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)


def _small(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 90)).save(file, kind)
    return file.getvalue()


def _avif(path: Path) -> None:
    """Write an AVIF file whose header states a large picture."""
    content = bytearray(_small("AVIF"))
    place = content.index(b"ispe") + 8
    content[place : place + 8] = struct.pack(">II", SIDE, SIDE)
    path.write_bytes(content)


def _jpeg2000(path: Path) -> None:
    content = bytearray(_small("JPEG2000"))
    if (place := content.find(b"ihdr")) >= 0:
        content[place + 4 : place + 12] = struct.pack(">II", SIDE, SIDE)
    place = content.index(b"\xff\x51") + 6  # SIZ: image, offset, tile
    content[place : place + 8] = struct.pack(">II", SIDE, SIDE)
    content[place + 16 : place + 24] = struct.pack(">II", SIDE, SIDE)
    path.write_bytes(content)


def _tiff(path: Path) -> None:
    """Write an RGBA TIFF of 144 megapixels in one deflated strip."""
    side, data = 12_000, zeros(12_000 * 12_000 * 4)
    entries = {256: (4, side), 257: (4, side), 258: (3, 4), 259: (3, 8), 262: (3, 2)}
    entries |= {273: (4, 8 + 2 + 12 * 11 + 4 + 8), 277: (3, 4), 278: (4, side)}
    entries |= {279: (4, len(data)), 284: (3, 1), 338: (3, 2)}
    fields = b""
    for tag, (kind, value) in sorted(entries.items()):
        count = 4 if tag == 258 else 1
        cell = 8 + 2 + 12 * 11 + 4 if tag == 258 else value
        fields += struct.pack("<HHII", tag, kind, count, cell)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + fields
    path.write_bytes(head + bytes(4) + struct.pack("<4H", 8, 8, 8, 8) + data)


def _script(path: Path) -> None:
    """Write a TorchScript archive whose pickle stores one object at place 2^30 of its memo."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02Nr" + (1 << 30).to_bytes(4, "little") + b".")
        archive.writestr("x/constants.pkl", b"\x80\x02).")


def _saved(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02Nr" + (1 << 30).to_bytes(4, "little") + b".")
        archive.writestr("x/version", b"3\n")
        archive.writestr("x/byteorder", b"little")


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 28))
        archive.writestr("x/constants.pkl", b"\x80\x02).")


def _plan(path: Path) -> None:
    from tests.runtime.plans import plan_bytes

    payload = base64.b85encode(zeros(4 << 30))
    name = f"numclip-plan/1 zlib85 {len(payload)} {zlib.crc32(payload):08x} {payload.decode()}"
    path.write_bytes(plan_bytes(name))


def _sidecar(path: Path) -> None:
    shutil.copy(DATA / "tiny.onnx", path)
    with path.with_name(f"{path.name}.sha256").open("wb") as file:
        file.truncate(4 << 30)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 << 30)


def _metadata(path: Path, text: str) -> None:
    from numclip_runtime.metadata import METADATA_KEY
    from numclip_runtime.model_files.onnx_file import message

    entry = message(14, message(1, METADATA_KEY.encode()), message(2, text.encode()))
    path.write_bytes((DATA / "foreign.onnx").read_bytes() + entry)


def _tiny_metadata() -> dict[str, object]:
    from numclip_runtime.metadata import METADATA_KEY
    from numclip_runtime.model_files.onnx_file import metadata_props

    plain: dict[str, object] = json.loads(metadata_props(DATA / "tiny.onnx")[METADATA_KEY])
    return plain


def _resize(path: Path) -> None:
    plain = _tiny_metadata()
    changed = {**plain["preprocessing"], "resize": 20_000}  # type: ignore[dict-item]
    _metadata(path, json.dumps(plain | {"preprocessing": changed}))


def _phrases(path: Path) -> None:
    plain = _tiny_metadata()
    many = {"phrases": [f"p{i}" for i in range(20_000)], "bin_edges": list(range(20_001))}
    _metadata(path, json.dumps(plain | {"task": {**plain["task"], **many}}))  # type: ignore[dict-item]


def _checkpoint(path: Path, *, layers: float = 1, phrases: int = 3) -> None:
    import torch

    from tests.numclip.tiny import TASK, TEXT, VIT

    task = TASK.to_dict()
    task |= {"phrases": [f"p{i}" for i in range(phrases)], "bin_edges": list(range(phrases + 1))}
    clip = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VIT | {"layers": layers}}
    content = {
        "format": "numclip-checkpoint",
        "schema_version": 1,
        "config": {"clip": clip | {"text_cfg": TEXT}, "prompts": {}},
        "task": task,
        "preprocessing": {"crop": 32, "resize": 36},
        "metrics": {},
        "validation_csv": None,
        "versions": {},
        "state_dict": {"x": torch.zeros(1)},
    }
    torch.save(content, path)


BOMBS = (
    Bomb("16bit.png", lambda path: _png(path, 16, 0), OPEN_PICTURE),
    Bomb("rgb16.png", lambda path: _png(path, 16, 2), OPEN_PICTURE, refused=False),
    Bomb("rgba.png", lambda path: _png(path, 8, 6, side=12_000), OPEN_PICTURE),
    Bomb("lossless.webp", _webp, OPEN_PICTURE),
    Bomb("large.avif", _avif, OPEN_PICTURE),
    Bomb("large.jp2", _jpeg2000, OPEN_PICTURE),
    Bomb("rgba.tif", _tiff, OPEN_PICTURE),
    Bomb(
        "text.png",
        lambda p: _png(p, 8, 0, b"k\0\0" + zeros(2 << 30), 8),
        OPEN_PICTURE,
        refused=False,
    ),
    Bomb("bomb.plan", _plan, READ_METADATA),
    Bomb("sidecar.onnx", _sidecar, OPEN_MODEL),
    Bomb("sparse.onnx", _sparse, OPEN_MODEL),
    Bomb("nested.onnx", lambda path: _metadata(path, "[" * 1_000_000), READ_METADATA),
    Bomb("digits.onnx", lambda path: _metadata(path, "9" * 5_000_000), READ_METADATA),
    Bomb("resize.onnx", _resize, OPEN_MODEL),
    Bomb("phrases.onnx", _phrases, OPEN_MODEL),
    Bomb("memo.pt", _script, OPEN_WEIGHTS, torch=True),
    Bomb("memo-saved.pt", _saved, OPEN_WEIGHTS, torch=True),
    Bomb("zip.pt", _zip_bomb, OPEN_WEIGHTS, torch=True),
    Bomb("layers.pt", lambda path: _checkpoint(path, layers=1e9), OPEN_CHECKPOINT, torch=True),
    Bomb("layers2.pt", lambda path: _checkpoint(path, layers=10**6), OPEN_CHECKPOINT, torch=True),
    Bomb("phrases.pt", lambda path: _checkpoint(path, phrases=20_000), OPEN_CHECKPOINT, torch=True),
    Bomb("nested.toml", lambda path: _text(path, "name = " + "[" * 200_000), OPEN_TASK, torch=True),
    Bomb("sparse.toml", _sparse, OPEN_TASK, torch=True),
)


def _text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def measured(bombs: tuple[Bomb, ...], folder: Path) -> list[tuple[Bomb, int, Peak]]:
    """Return each bomb with the size of its file and what reading it took."""
    photo = folder / "photo.png"
    Image.new("RGB", (20, 20)).save(photo)
    snippets = []
    for bomb in bombs:
        path = folder / bomb.name
        bomb.make(path)
        snippets.append(bomb.reader.format(path=str(path), photo=str(photo)))
    modules = ("numclip.checkpoint", "numclip.tasks") if any(b.torch for b in bombs) else ()
    found = peaks_of(snippets, modules=("numclip_runtime", "PIL.Image", *modules))
    sizes = [(folder / bomb.name).stat().st_size for bomb in bombs]
    return list(zip(bombs, sizes, found, strict=True))


def main() -> None:
    """Print the table of all bombs."""
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        for torch in (False, True):
            bombs = tuple(bomb for bomb in BOMBS if bomb.torch == torch)
            for bomb, size, peak in measured(bombs, Path(folder)):
                worst = max(worst, peak.mib)
                print(
                    f"{bomb.name:<16}{size:>14,} bytes {peak.mib:>6} MiB {peak.seconds:>5.1f} s  "
                    f"{peak.error or 'read'}: {peak.message[:110]}"
                )
    sys.exit(worst > LIMIT_MIB)


if __name__ == "__main__":
    main()
