"""Weights and checkpoints: zip archives, pickles, TorchScript and safetensors, read as data.

Checksums of zip archives would stop a fuzzer, so most forms put the bytes into a valid archive.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes

from numclip.weights.reading import read_content, state_of
from tests.fuzz.harness import refusals, written

# Of the first byte: the form of the rest
RAW, SCRIPT, SAVED, SAFETENSORS, HEADER, LEGACY = range(6)
NUMBERS = bytes(range(64))


def target(data: bytes) -> None:
    kind = data[0] % 6 if data else RAW
    with refusals():
        path = _file(kind, data[1:])
        state_of(read_content(path), path)


def _file(kind: int, rest: bytes) -> Path:
    if kind == SCRIPT:
        parts = {"x/data.pkl": rest, "x/data/0": NUMBERS, "x/constants.pkl": b"\x80\x02)."}
        return written(_zip(parts), ".pt")
    if kind == SAVED:
        parts = {"x/data.pkl": rest, "x/byteorder": b"little", "x/data/0": NUMBERS}
        return written(_zip(parts | {"x/version": b"3\n"}), ".pt")
    if kind == HEADER:
        return written(len(rest).to_bytes(8, "little") + rest + NUMBERS, ".safetensors")
    return written(rest, ".safetensors" if kind == SAFETENSORS else ".pt")


def _zip(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Pickle storages as references to the archive's only one."""

    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, torch.storage.TypedStorage):
            return ("storage", torch.FloatStorage, "0", "cpu", 16)
        return None


def seeds() -> Iterator[bytes]:
    state = OrderedDict(weight=torch.arange(16.0).reshape(4, 4), bias=torch.zeros(4))
    for content in ({"state_dict": state, "epoch": 3}, state):
        file = io.BytesIO()
        torch.save(content, file)
        yield bytes((RAW,)) + file.getvalue()
        with zipfile.ZipFile(file) as archive:
            pickled = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            yield bytes((SAVED,)) + archive.read(pickled)
            yield bytes((SCRIPT,)) + archive.read(pickled)
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=False)
        yield bytes((LEGACY,)) + file.getvalue()
    yield bytes((SAFETENSORS,)) + safetensors_bytes(state, {"numclip": '{"format": "x"}'})
    entry = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    header = {"__metadata__": {"numclip": '{"metrics": {}}'}, "w": entry}
    yield bytes((HEADER,)) + json.dumps(header).encode()
    yield bytes((SCRIPT,)) + b"\x80\x02Nr" + (1 << 20).to_bytes(4, "little") + b"."
