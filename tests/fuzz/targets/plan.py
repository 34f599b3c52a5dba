"""Plans: raw files, and metadata whose length and checksum are right, so that they are read."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from pathlib import Path

from numclip_runtime import ModelMetadata
from numclip_runtime.metadata import METADATA_KEY
from numclip_runtime.model_files.onnx_file import metadata_props
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata, read_plan_metadata
from tests.fuzz.harness import refusals, written
from tests.runtime.plans import plan_bytes

TINY = Path(__file__).parents[2] / "data/tiny.onnx"
RAW, JSON, PACKED, DEFLATED = range(4)  # of the first byte: the form of the rest


def target(data: bytes) -> None:
    form, rest = data[:1], data[1:]
    kind = form[0] % 4 if form else RAW
    path = written(rest if kind == RAW else _plan(kind, rest), ".plan")
    with refusals():
        read_plan_metadata(path)


def _plan(kind: int, payload: bytes) -> bytes:
    if kind != JSON:
        payload = base64.b85encode(payload if kind == DEFLATED else zlib.compress(payload, 1))
    word = b"json" if kind == JSON else b"zlib85"
    head = b"numclip-plan/1 %s %d %08x " % (word, len(payload), zlib.crc32(payload))
    return plan_bytes("").replace(b"\x00\x01" * 300, b"\x00\x01" + head + payload)


def seeds() -> Iterator[bytes]:
    metadata = ModelMetadata.from_json(metadata_props(TINY)[METADATA_KEY])
    facts = EngineFacts("tensorrt-rtx", "1.7.1.116", (86, 89), 1, 4, 8, "ab" * 32)
    name = encode_metadata(metadata, facts)
    payload = name.split(" ", 4)[4].encode()
    yield bytes((RAW,)) + plan_bytes(name)
    yield bytes((RAW,)) + plan_bytes(name, b"ftrt", bytes((10, 3, 0, 26)))
    yield bytes((JSON,)) + payload
    yield bytes((PACKED,)) + payload
    yield bytes((DEFLATED,)) + zlib.compress(payload)
    yield bytes((DEFLATED,)) + zlib.compress(bytes(1 << 24))
