"""Read what an ONNX file says about itself without loading it, and without the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from numclip_runtime.errors import ModelError
from numclip_runtime.metadata import METADATA_KEY, ModelMetadata

METADATA_PROPS = 14  # field of ModelProto: repeated (key, value)
KEY, VALUE = 1, 2  # fields of each of these
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def metadata_of(model: Path) -> ModelMetadata | None:
    """Return what numclip wrote into an ONNX file; None for a file of others.

    Raises:
        ModelError: if it is damaged, or of a schema this version cannot read.
    """
    text = metadata_props(model).get(METADATA_KEY)
    return None if text is None else ModelMetadata.from_json(text, source=str(model))


def no_metadata(model: Path) -> ModelError:
    """Return the error for a file of others."""
    return ModelError(
        f"{model}: holds no numclip metadata, so its bins and preprocessing are unknown; "
        "make the file with `numclip-export --ckpt x.pt`."
    )


def metadata_props(model: Path) -> dict[str, str]:
    """Return the texts that an ONNX file carries, by key; empty if the file is no ONNX file.

    Walks the outermost protobuf fields and seeks over the graph: microseconds for any size.
    """
    found = {}
    with model.open("rb") as file:
        size = model.stat().st_size
        try:
            while file.tell() < size:
                field, content = _field(file, size)
                if field == METADATA_PROPS and content is not None:
                    file.seek(content[0])
                    entry = {}
                    while file.tell() < content[1]:
                        name, part = _field(file, content[1])
                        if part is None:
                            raise ValueError("not a text")
                        file.seek(part[0])
                        entry[name] = file.read(part[1] - part[0]).decode()
                    found[entry[KEY]] = entry[VALUE]
        except (EOFError, ValueError, KeyError):
            return {}
    return found


def _field(file: IO[bytes], end: int) -> tuple[int, tuple[int, int] | None]:
    """Return a field's number and where its content starts and ends; go to its end."""
    tag = _varint(file)
    kind, content = tag & 7, None
    if kind == VARINT:
        _varint(file)
    elif kind in (FIXED32, FIXED64):
        file.seek(4 if kind == FIXED32 else 8, 1)
    elif kind == LENGTH:
        length = _varint(file)
        content = (file.tell(), file.tell() + length)
        if content[1] > end:
            raise EOFError
        file.seek(content[1])
    else:
        raise ValueError(f"wire type {kind}")
    return tag >> 3, content


def _varint(file: IO[bytes]) -> int:
    value = shift = 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("varint of more than 64 bits")
