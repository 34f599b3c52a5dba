"""ONNX files: their metadata, and their weights left in the file; no session is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from numclip_runtime.model_files.onnx_file import MappedModel, encoded, message, read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel
from tests.fuzz.harness import refusals, written

DATA = Path(__file__).parents[2] / "data"


def target(data: bytes) -> None:
    path = written(data, ".onnx")
    with refusals():
        read_onnx_metadata(path)
    with refusals(), OpenModel(path) as model:
        MappedModel(model)


def seeds() -> Iterator[bytes]:
    yield (DATA / "tiny.onnx").read_bytes()
    yield (DATA / "foreign.onnx").read_bytes()
    # a weight large enough to stay in the file, read by an operator that packs it
    weight = message(5, message(8, b"w"), message(9, bytes(1 << 16)))
    node = message(1, message(1, b"w"), message(4, b"MatMul"))
    yield message(7, node, weight)
    yield encoded(7 << 3 | 2) + encoded(2**60)
    yield encoded(14 << 3 | 2) + b"\xff" * 12
    yield message(14, message(1, b"numclip"), message(2, b"{}"))
    yield b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    yield b"<!doctype html><html></html>"
