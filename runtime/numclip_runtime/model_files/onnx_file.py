"""An ONNX file without the onnx and protobuf packages: its fields, its metadata, its weights.

Weights can stay in the file. onnxruntime reads a file of one piece into memory, weights included,
and then packs them for its kernels: two copies at once, and 25,000 page faults for a ViT-B/32 in
INT8. If the model declares its weights as "external data" (ONNX's word for a file beside it),
onnxruntime maps them, packs them and closes the mapping. That file may be the model itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from numclip_runtime.errors import ModelError
from numclip_runtime.metadata import METADATA_KEY, ModelMetadata
from numclip_runtime.model_files.open_model import Buffer, OpenModel, Stamp, opened, stamp_of

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
# Field numbers of ONNX
GRAPH, METADATA_PROPS = 7, 14  # of ModelProto
NODE, INITIALIZER = 1, 5  # of GraphProto
NODE_INPUT, OP_TYPE = 1, 4  # of NodeProto
NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 8, 9, 13, 14  # of TensorProto
KEY, VALUE = 1, 2  # of StringStringEntryProto
EXTERNAL = 1  # of TensorProto.DataLocation

LARGEST_MODEL = (1 << 31) - 1  # bytes of a protobuf message
LARGEST_TEXT = 4 << 20  # bytes of one text in the metadata
MOST_FIELDS = 100_000  # of one message; a graph has a few thousand
SMALLEST_MAPPED = 1 << 16  # bytes of a weight; mapping a smaller one costs more than copying it
# Operators whose constant input is packed, or folded into another. Other operators keep reading the
# mapping, so a later write to the file would change the model.
PACKING = {b"MatMul", b"Gemm", b"Conv", b"MatMulInteger", b"DynamicQuantizeMatMul"}
PACKING |= {b"DequantizeLinear"}
EXPORT_AGAIN = "make the file with `numclip-export --ckpt x.pt`"


class Field(NamedTuple):
    """One field of a message, by its place in the buffer."""

    number: int
    kind: int  # wire type
    first: int  # where its tag starts
    start: int  # where its content starts: of a text, a message or a number
    end: int


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield the fields between two places.

    Raises:
        ValueError: if there is anything else.
    """
    for _ in range(MOST_FIELDS):
        if start >= end:
            return
        tag, content = buffer[start], start + 1  # nearly all are below 128
        if tag > 0x7F:
            tag, content = varint(buffer, start, end)
        if not 8 <= tag < 1 << 32:  # protobuf itself would cut off the higher bits
            raise ValueError("no field has this number")
        kind = tag & 7
        if kind == LENGTH:
            # Nearly all lengths are below 128 as well, and the call is a tenth of the time
            if content < end and (length := buffer[content]) <= 0x7F:
                content += 1
            else:
                length, content = varint(buffer, content, end)
            after = content + length
        elif kind == VARINT:
            _, after = varint(buffer, content, end)
        elif kind in (FIXED32, FIXED64):
            after = content + (4 if kind == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if after > end:
            raise ValueError("ends early")
        yield Field(tag >> 3, kind, start, content, after)
        start = after
    if start < end:
        raise ValueError(f"more than {MOST_FIELDS:,} fields in one message")


def varint(buffer: Buffer, start: int, end: int) -> tuple[int, int]:
    """Return a number and where it ends.

    Raises:
        ValueError: if there is none.
    """
    value = shift = 0
    for place in range(start, min(end, start + 10)):
        byte = buffer[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("no varint of 64 bits")


def encoded(number: int) -> bytes:
    """Return a number >= 0 as a varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(number: int, *parts: bytes) -> bytes:
    """Return a field whose content is a text or a message."""
    return b"".join((encoded(number << 3 | LENGTH), encoded(sum(map(len, parts))), *parts))


def read_onnx_metadata(model: Path | OpenModel) -> ModelMetadata:
    """Return the metadata that numclip wrote into an ONNX file.

    Raises:
        ModelError: if the file is missing, not an ONNX model, damaged, or not made by numclip.
    """
    with opened(model) as file:
        try:
            text = metadata_props(file).get(METADATA_KEY)
        except ValueError as error:
            raise ModelError(
                f"{file.path}: not an ONNX model, or a damaged one ({error})."
            ) from None
        if text is None:
            raise no_metadata(file.path)
        return ModelMetadata.from_json(text, source=str(file.path))


def no_metadata(model: Path, remedy: str = EXPORT_AGAIN) -> ModelError:
    """Return the error for a model file that numclip did not make."""
    return ModelError(
        f"{model}: holds no numclip metadata, so its bins and preprocessing are unknown; {remedy}."
    )


def metadata_props(model: Path | OpenModel) -> dict[str, str]:
    """Return the texts that an ONNX file carries, by key.

    Walks the outermost protobuf fields and skips the graph: microseconds for any size.

    Raises:
        ModelError: if the file cannot be read.
        ValueError: if it is not an ONNX file, or beyond the limits; the message is the reason.
    """
    found: dict[str, str] = {}
    with opened(model) as file:
        data = file.content
        if file.size > LARGEST_MODEL:
            raise ValueError("larger than 2 GiB, which no ONNX file can be")
        for field in fields(data, 0, file.size):
            if field.number == METADATA_PROPS and field.kind == LENGTH:
                if field.end - field.start > LARGEST_TEXT:
                    raise ValueError(f"metadata of {field.end - field.start:,} bytes")
                entry = {
                    part.number: data[part.start : part.end].decode()
                    for part in fields(data, field.start, field.end)
                    if part.kind == LENGTH
                }
                if entry.get(KEY, "") in found:
                    raise ValueError("metadata of one name stand there twice")
                found[entry.get(KEY, "")] = entry.get(VALUE, "")
    return found


class MappedModel:
    """An ONNX file whose weights stay in the file.

    onnxruntime opens the weights by the file's name, so `unchanged` has to be asked afterwards.

    Args:
        model: The open file.
    """

    def __init__(self, model: OpenModel) -> None:
        self._path = Path(os.path.realpath(model.path))
        self.folder = str(self._path.parent)  # in which onnxruntime looks for the weights
        self.graph: bytes | None = None  # to open in place of the file; None: open the file
        self._before = self._stamps()
        # A change within one tick of the system's clock (10 ms at most) leaves no trace
        self._fresh = time.time_ns() - model.stamp[-1] < 20_000_000
        # Windows forbids replacing a mapped file; bytes: a file system that maps nothing
        if (
            sys.platform == "linux"
            and not isinstance(model.content, bytes)
            and self._before[:1] == [model.stamp]
            and _is_utf8(str(self._path))
        ):
            self.graph = _without_weights(model.content, self._path.name)

    def unchanged(self) -> bool:
        """Return whether the name meant the open file all the time, and its content stayed."""
        return not self._fresh and self._stamps() == self._before

    def _stamps(self) -> list[Stamp]:
        """Return the stamps of the file and of all folders above it; empty: it went away."""
        try:
            return [stamp_of(place.stat()) for place in (self._path, *self._path.parents)]
        except OSError:
            return []


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_weights(model: mmap, name: str) -> bytes | None:
    """Return a model whose weights are external data in the file that it was read from.

    Args:
        model: The file's content.
        name: The file's name, without its folder.

    Returns:
        None if nothing is gained, or the content is not an ONNX model.
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
    packed: dict[bytes, bool] = {}  # tensor -> whether every operator that reads it packs it
    for field in fields(model, graph.start, graph.end):
        if field.number == INITIALIZER and field.end - field.start >= SMALLEST_MAPPED:
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
    """Yield the content of a tensor whose numbers are external data."""
    yield model[tensor.start : data.first]
    yield model[data.end : tensor.end]
    place = {"location": name, "offset": str(data.start), "length": str(data.end - data.start)}
    for key, value in place.items():
        yield message(EXTERNAL_DATA, message(KEY, key.encode()), message(VALUE, value.encode()))
    yield encoded(DATA_LOCATION << 3) + encoded(EXTERNAL)
