"""An ONNX file without the onnx and protobuf packages: its fields, and the metadata it carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple, TypeAlias

from numclip_runtime.errors import ModelError
from numclip_runtime.metadata import METADATA_KEY, ModelMetadata

Buffer: TypeAlias = "mmap | bytes"

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
METADATA_PROPS = 14  # field of ModelProto: repeated (key, value)
KEY, VALUE = 1, 2  # fields of each of these
EXPORT_AGAIN = "make the file with `numclip-export --ckpt x.pt`"


class Field(NamedTuple):
    """One field of a message, by its place in the buffer."""

    number: int
    kind: int  # wire type
    first: int  # where its tag starts
    start: int  # where its content starts: of a text, a message or a number
    end: int


@contextmanager
def content_of(path: Path) -> Iterator[Buffer]:
    """Yield a file's content: mapped, or read where a file system maps nothing."""
    with path.open("rb") as file:
        try:
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
        except (OSError, ValueError):  # ValueError: the file is empty
            yield file.read()
            return
        with mapped:
            yield mapped


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield the fields between two places.

    Raises:
        ValueError: if there is something else.
    """
    while start < end:
        tag, content = buffer[start], start + 1  # nearly all are below 128
        if tag > 0x7F:
            tag, content = varint(buffer, start, end)
        kind = tag & 7
        if kind == LENGTH:
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


def metadata_of(model: Path) -> ModelMetadata | None:
    """Return the metadata that numclip wrote into an ONNX file; None if there are none.

    None is also the answer for a file that is no ONNX file: what opens it says so.

    Raises:
        ModelError: if they are damaged, or of a schema this version cannot read.
    """
    try:
        text = metadata_props(model).get(METADATA_KEY)
    except ValueError:
        return None
    return None if text is None else ModelMetadata.from_json(text, source=str(model))


def read_onnx_metadata(model: Path) -> ModelMetadata:
    """Return the metadata that numclip wrote into an ONNX file.

    Raises:
        ModelError: if the file is missing, no ONNX model, damaged, or not made by numclip.
    """
    try:
        text = metadata_props(model).get(METADATA_KEY)
    except ValueError:
        raise ModelError(f"{model}: not an ONNX model, or a damaged one.") from None
    except OSError as error:
        raise ModelError(f"{model}: cannot read this model ({error.strerror}).") from None
    if text is None:
        raise no_metadata(model)
    return ModelMetadata.from_json(text, source=str(model))


def no_metadata(model: Path, remedy: str = EXPORT_AGAIN) -> ModelError:
    """Return the error for a model file that numclip did not make."""
    return ModelError(
        f"{model}: holds no numclip metadata, so its bins and preprocessing are unknown; {remedy}."
    )


def metadata_props(model: Path) -> dict[str, str]:
    """Return the texts that an ONNX file carries, by key.

    Walks the outermost protobuf fields and skips the graph: microseconds for any size.

    Raises:
        ValueError: if the file is not an ONNX file.
        OSError: if it cannot be read.
    """
    found = {}
    with content_of(model) as data:
        for field in fields(data, 0, len(data)):
            if field.number == METADATA_PROPS and field.kind == LENGTH:
                entry = {
                    part.number: data[part.start : part.end].decode()
                    for part in fields(data, field.start, field.end)
                    if part.kind == LENGTH
                }
                found[entry.get(KEY, "")] = entry.get(VALUE, "")
    return found
