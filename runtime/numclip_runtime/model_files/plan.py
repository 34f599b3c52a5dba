"""The metadata of a plan (a serialised TensorRT engine), read without TensorRT and GPU.

The metadata is the network's name, which TensorRT stores as readable text near the start of the
plan. So the file stays a pure plan that `trtexec` and Triton load, and needs no second file.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.fields import JSON_LIMIT, parse_json, read_fields
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.onnx_file import no_metadata
from numclip_runtime.model_files.open_model import OpenModel, opened

Builder = Literal["tensorrt", "tensorrt-rtx"]

PLAN_SCHEMA_VERSION = 1
NAME_LIMIT = 4095  # characters of a network's name: TensorRT's 4,096 count the closing zero
# marker, form, length and CRC-32 of the payload; the payload follows
_NAME = re.compile(rb"numclip-plan/(\d{1,9}) (json|zlib85) (\d{1,9}) ([0-9a-f]{8}) ")
MARKER = b"numclip-plan/"
# The first 4 bytes. "ftrt" is what trtexec --getPlanVersionOnly demands; "vtrt" is what
# TensorRT-RTX 1.4 to 1.7 write. Both keep the version in bytes 24 to 27.
MAGIC: dict[bytes, Builder] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
HEADER_BYTES = 28
LARGEST_BATCH = 65_536  # images; a lane's buffers for them are made when the plan is opened


@dataclass(frozen=True)
class EngineFacts:
    """How an engine was built; the model's own metadata precede the build."""

    builder: Builder
    builder_version: str  # of the Python package, such as "1.7.1.116"
    # of the target GPUs, 86 means 8.6; None: TensorRT-RTX's choice: 8.0, 8.6, 8.9, 12.0 and later
    compute_capabilities: tuple[int, ...] | None
    min_batch: int
    opt_batch: int  # the batch that kernels were chosen for
    max_batch: int
    onnx_sha256: str  # of the ONNX file it was built from
    # Differences to a plain build: "tf32", "version-compatible", "hardware-compatible",
    # "head-without-gemm"
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch <= LARGEST_BATCH:
            raise UsageError(
                f"batches {self.min_batch}, {self.opt_batch}, {self.max_batch} must ascend from 1 "
                f"to at most {LARGEST_BATCH:,}."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineFacts:
        """Build from plain data (lists become tuples; fields unknown here are left out).

        Raises:
            UsageError: if a field is missing, of another type or out of range.
        """
        return read_fields(cls, data, "engine", newer=True)


@dataclass(frozen=True)
class PlanInfo:
    """The metadata of a plan, which is not deserialised for them."""

    builder: Builder  # by the file's first bytes
    version: str | None  # of TensorRT by the header, "10.3.0.26"; None: an unknown kind of header
    size: int  # of the file, bytes
    metadata: ModelMetadata
    engine: EngineFacts


def encode_metadata(metadata: ModelMetadata, engine: EngineFacts) -> str:
    """Return the network name that holds the metadata: JSON, compressed if that is too long.

    Raises:
        UsageError: if even the compressed form is longer than TensorRT allows.
    """
    plain = {"model": json.loads(metadata.to_json()), "engine": asdict(engine)}
    dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
    text = dumps(plain)
    packed = base64.b85encode(zlib.compress(text.encode(), 9)).decode()
    for form, payload in (("json", text), ("zlib85", packed)):
        crc = zlib.crc32(payload.encode())
        name = f"{MARKER.decode()}{PLAN_SCHEMA_VERSION} {form} {len(payload)} {crc:08x} {payload}"
        if len(name) <= NAME_LIMIT:
            return name
    raise UsageError(
        f"task {metadata.task.name!r}: its metadata take {len(name)} characters, and a plan holds "
        f"{NAME_LIMIT}; shorten the phrases, or run the ONNX file instead."
    )


def read_plan_metadata(plan: Path | OpenModel) -> PlanInfo:
    """Read the metadata of a plan.

    Raises:
        ModelError: if the file is missing, not a plan, damaged, or not built by numclip.
    """
    with opened(plan) as model:
        path, size = model.path, model.size
        builder, version = _read_header(model.content[:HEADER_BYTES], size, path)
        text = _find_name(model)
    try:
        plain = parse_json(text)
        if not isinstance(plain, dict) or not {"model", "engine"} <= plain.keys():
            raise ValueError("they lack the model or the engine")
        engine = EngineFacts.from_dict(plain["engine"])
    except ValueError as error:  # UsageError is one
        reason = str(error).removesuffix(".")
        raise ModelError(
            f"{path}: its numclip metadata cannot be read ({reason}); build it again from the ONNX "
            "file."
        ) from None
    metadata = ModelMetadata.from_dict(plain["model"], source=str(path))
    return PlanInfo(builder, version, size, metadata, engine)


def _read_header(header: bytes, size: int, path: Path) -> tuple[Builder, str | None]:
    builder = MAGIC.get(header[:4])
    if builder is None:
        raise ModelError(
            f"{path}: not a TensorRT plan, it begins with {header[:4]!r}; build one with "
            "`numclip-export --onnx x.onnx --target tensorrt`."
        )
    if len(header) < HEADER_BYTES:
        raise ModelError(f"{path}: truncated, {size} bytes are less than a plan's header.")
    if header[4:8] != bytes(4):  # the layout of the header, 0 in every version seen so far
        return builder, None
    stated = int.from_bytes(header[16:24], "little")
    # Verified for TensorRT-RTX only; building with TensorRT needs a GPU.
    if builder == "tensorrt-rtx" and stated != size:
        raise ModelError(
            f"{path}: damaged, its header states {stated} bytes and the file has {size}; "
            "copy it again."
        )
    return builder, ".".join(map(str, header[24:28]))


def _find_name(plan: OpenModel) -> str:
    """Return the JSON text inside the network's name.

    TensorRT-RTX writes it into the first 4 kB. Other places are possible, so the whole file is
    searched.
    """
    path = plan.path
    start = plan.find(MARKER)
    if start < 0:
        raise no_metadata(path, "build it with `numclip-export --onnx x.onnx --target tensorrt`")
    damaged = ModelError(f"{path}: its numclip metadata are damaged; copy or build it again.")
    name = plan.content[start : start + NAME_LIMIT]
    if (match := _NAME.match(name)) is None:
        raise damaged
    schema, form, length, crc = match.groups()
    if int(schema) != PLAN_SCHEMA_VERSION:
        raise ModelError(
            f"{path}: plan metadata schema {int(schema)} is unknown, this numclip reads schema "
            f"{PLAN_SCHEMA_VERSION}; update numclip or build the plan again."
        )
    payload = name[match.end() : match.end() + int(length)]
    if len(payload) < int(length) or zlib.crc32(payload) != int(crc, 16):
        raise damaged
    try:
        return (payload if form == b"json" else _unpacked(payload)).decode()
    except (ValueError, zlib.error):
        raise damaged from None


def _unpacked(payload: bytes) -> bytes:
    """Decompress at most `JSON_LIMIT` bytes: 4 kB can hold a thousand times as many."""
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(base64.b85decode(payload), JSON_LIMIT)
    if not unpacker.eof:
        raise ValueError(f"truncated, or more than {JSON_LIMIT:,} bytes")
    return text
