"""Open an ONNX file without reading its weights into memory first.

onnxruntime reads a file of one piece into memory, weights included, and packs them for its kernels
then: two copies at once, and 25,000 page faults for a ViT-B/32 in INT8. Told that the weights lie
in a file of their own (ONNX's "external data"), it maps them, packs them and lets go. The file they
lie in may be the model itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

from numclip_runtime.onnx_file import Field, encoded, fields, message

LEAST = 1 << 16  # bytes of a weight; below, a mapping costs more than a copy
# Operators whose constant input is packed, or folded into another: of what others read, a mapping
# would stay, and whoever then wrote into the file would change the model.
PACKING = {b"MatMul", b"Gemm", b"Conv", b"MatMulInteger", b"DynamicQuantizeMatMul"}
PACKING |= {b"DequantizeLinear"}

# Field numbers of ONNX
GRAPH = 7  # of ModelProto
NODE, INITIALIZER = 1, 5  # of GraphProto
NODE_INPUT, OP_TYPE = 1, 4  # of NodeProto
NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 8, 9, 13, 14  # of TensorProto
KEY, VALUE = 1, 2  # of StringStringEntryProto
EXTERNAL = 1  # of TensorProto.DataLocation


class MappedModel:
    """An ONNX file, with its weights left where they are.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        real = path.resolve()
        self.folder = str(real.parent)  # where onnxruntime looks for the weights
        self._path = real
        self.graph: bytes | None = None  # to open in place of the file; None: nothing is gained
        if sys.platform != "linux":  # Windows lets nobody replace a file that is mapped
            return
        with real.open("rb") as file:
            self._identity = _identity(os.fstat(file.fileno()))
            # an empty file, or a file system that maps nothing
            with suppress(ValueError, OSError), mmap(file.fileno(), 0, access=ACCESS_READ) as model:
                self.graph = without_weights(model, real.name)

    def unchanged(self) -> bool:
        """Tell whether the file is still the one that `graph` was read from."""
        try:
            return _identity(self._path.stat()) == self._identity
        except OSError:
            return False


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns


def without_weights(model: mmap, name: str) -> bytes | None:
    """Return a model whose weights are external data in the file that it was read from.

    Args:
        model: The file's content.
        name: The file's name, without its folder.

    Returns:
        None where nothing is gained, or the content is no ONNX model.
    """
    try:
        parts, moved = [], 0
        for field in fields(model, 0, len(model)):
            if field.number != GRAPH:
                parts.append(model[field.first : field.end])
                continue
            graph, moved = _graph_without_weights(model, field, name)
            parts.append(message(GRAPH, *graph))
    except ValueError:
        return None
    return b"".join(parts) if moved else None


def _graph_without_weights(model: mmap, graph: Field, name: str) -> tuple[list[bytes], int]:
    parts, weights = [], []
    packed: dict[bytes, bool] = {}  # tensor: whether all that read it pack it
    for field in fields(model, graph.start, graph.end):
        if field.number == INITIALIZER and field.end - field.start >= LEAST:
            weights.append(field)
            continue
        part = model[field.first : field.end]
        parts.append(part)
        if field.number == NODE:
            _note_inputs(part, field.start - field.first, packed)
    moved = 0
    for field in weights:
        inside = {part.number: part for part in fields(model, field.start, field.end)}
        data, label = inside.get(RAW_DATA), inside.get(NAME)
        if data and label and packed.get(model[label.start : label.end]):
            parts.append(message(INITIALIZER, *_elsewhere(model, field, data, name)))
            moved += 1
        else:
            parts.append(model[field.first : field.end])
    return parts, moved


def _note_inputs(node: bytes, start: int, packed: dict[bytes, bool]) -> None:
    inputs, packs = [], False
    for field in fields(node, start, len(node)):
        if field.number == NODE_INPUT:
            inputs.append(node[field.start : field.end])
        elif field.number == OP_TYPE:
            packs = node[field.start : field.end] in PACKING
    for tensor in inputs:
        packed[tensor] = packs and packed.get(tensor, True)


def _elsewhere(model: mmap, tensor: Field, data: Field, name: str) -> Iterator[bytes]:
    """Yield the content of a tensor whose numbers lie in a file."""
    yield model[tensor.start : data.first]
    yield model[data.end : tensor.end]
    place = {"location": name, "offset": str(data.start), "length": str(data.end - data.start)}
    for key, value in place.items():
        yield message(EXTERNAL_DATA, message(KEY, key.encode()), message(VALUE, value.encode()))
    yield encoded(DATA_LOCATION << 3) + encoded(EXTERNAL)
