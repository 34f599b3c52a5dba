"""Tars of labelled images, in WebDataset's layout."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from contextlib import suppress

from numclip.data.columns import TableOptions
from numclip.data.readers import read_samples
from numclip_runtime import ImageError, Task
from numclip_runtime.preprocess import load_rgb
from tests.fuzz.harness import FindingError, refusals, written

TASK = Task("x", "", (0, 10, 20, 30), ("low", "middle", "high"))
LONG = "folder/" * 20 + "é" * 60  # beyond the 100 bytes of a header


def target(data: bytes) -> None:
    """Read a tar; the first byte chooses the options."""
    kind = data[0] if data else 0
    path = written(data[1:] if kind & 8 else _with_checksums(data[1:]), ".tar")
    table = TableOptions(label_column="age" if kind & 1 else None, skip_unlabelled=bool(kind & 2))
    with refusals():
        group = "who" if kind & 4 else None
        for sample in read_samples(path, TASK, table=table, group_column=group, notes=[]):
            if not math.isfinite(sample.label) or not TASK.contains(sample.label):
                raise FindingError(f"label {sample.label}")
            member = sample.member
            if member is None or member.offset < 0 or member.offset + member.size > len(data) - 1:
                raise FindingError(f"{member} in {len(data) - 1} bytes")
            if ".." in member.inside.split("/") or member.inside.startswith("/"):
                raise FindingError(f"a name outside the archive: {member.inside!r}")
            with suppress(ImageError):
                load_rgb(member)


def _with_checksums(data: bytes) -> bytes:
    """Make the checksums of all headers right, which hardly any mutation would be."""
    blocks = [bytearray(data[start : start + 512]) for start in range(0, len(data), 512)]
    for block in blocks:
        if len(block) == 512 and block[257:262] == b"ustar":
            block[148:156] = b"%06o\0 " % (sum(block[:148] + block[156:]) + 8 * 32)
    return b"".join(blocks)


def _tar(files: dict[str, bytes], form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue().rstrip(b"\0") + bytes(1024)


def seeds() -> Iterator[bytes]:
    ppm = b"P6 1 1 255\n\x01\x02\x03"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield b"\0" + _tar({"0.ppm": ppm, "0.json": b'{"label": 3}', "1.cls": b"3"}, form)
        yield b"\7" + _tar({"a/0.ppm": ppm, "a/0.json": b'{"age": [3, 4], "who": 1}'}, form)
    yield b"\0" + _tar({f"{LONG}.ppm": ppm, f"{LONG}.txt": b"3,5"}, tarfile.GNU_FORMAT)
    yield b"\2" + _tar({f"{LONG}.ppm": ppm, f"{LONG}.cls": b"NaN"}, tarfile.PAX_FORMAT)
