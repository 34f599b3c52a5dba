"""Read the metadata of an ONNX file without onnx or onnxruntime, which a Jetson may lack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from numclip_runtime import ModelError, ModelMetadata
from numclip_runtime.metadata import METADATA_KEY

_METADATA_PROPS = 14  # field of ModelProto: repeated {1: key, 2: value}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types


def metadata_of_onnx(path: Path) -> ModelMetadata:
    """Return the metadata that `numclip-export` wrote into an ONNX file.

    Skips from field to field, so the weights are never read.

    Raises:
        ModelError: if the file is missing, no ONNX model, or holds no numclip metadata.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            entries = [
                {field: text.decode() for field, text in _texts(BytesIO(entry), len(entry), {1, 2})}
                for _, entry in _texts(file, size, {_METADATA_PROPS})
            ]
    except ValueError:
        raise ModelError(f"{path}: not an ONNX model, or a damaged one.") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot read this model ({error.strerror}).") from None
    texts = [entry.get(2, "") for entry in entries if entry.get(1) == METADATA_KEY]
    if not texts:
        raise ModelError(
            f"{path}: holds no numclip metadata, so its bins and preprocessing are unknown; "
            "make the file with `numclip-export --ckpt x.pt`."
        )
    return ModelMetadata.from_json(texts[-1], source=str(path))


def _texts(file: BinaryIO, size: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield (field, content) of the wanted length-delimited fields of a message of `size` bytes."""
    while file.tell() < size:
        tag = _varint(file)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _varint(file)
            continue
        if wire not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"wire type {wire}")
        length = _varint(file) if wire == _BYTES else 8 if wire == _FIXED64 else 4
        if file.tell() + length > size:
            raise ValueError("truncated")
        if field in wanted and wire == _BYTES:
            yield field, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while byte := file.read(1):
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("truncated")
