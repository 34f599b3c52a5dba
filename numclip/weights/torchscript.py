"""Read the tensors of a TorchScript archive, such as OpenAI's CLIP files, as data.

`torch.jit.load` compiles the code that the archive brings along, and runs the `__setstate__` of its
classes. Here only its pickle of attributes and the raw storages are read: every class of the
archive becomes an inert object, names outside a short list are refused, its code is never opened.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive (torch.save's zip has no constants.pkl)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the parameters, buffers and other tensor attributes of an archive, by name.

    Args:
        path: A file that has passed `check_archive`.

    Raises:
        pickle.UnpicklingError: if the archive names something that plain weights do not need.
        Exception: of many types, if the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).split("/")[0]
        module = _Unpickler(archive, root, archive.read(f"{root}/data.pkl")).load()
    found: dict[str, Tensor] = {}
    _collect(module, "", found, set())
    return found


class _Object:
    """An instance of some class of the archive: its attributes, none of its code."""

    attributes: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Unpickle attributes; `find_class` decides about every name in the file."""

    def __init__(self, archive: zipfile.ZipFile, root: str, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.archive = archive
        self.root = root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return an inert stand-in for a global of the pickle, or refuse it."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Object
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":  # build_intlist, restore_type_tag: typed containers
            return lambda value, *kind: value
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the storage ("storage", dtype, key, device, count) as a flat tensor."""
        _, dtype, key, _, count = pid
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.root}/data/{key}")
            if info.file_size != count * dtype.itemsize or info.compress_size != info.file_size:
                raise ValueError(f"storage {key} has {info.file_size} bytes")
            raw = bytearray(self.archive.read(info))
            self.storages[key] = (
                torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]

    @staticmethod
    def _tensor(
        storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> Tensor:
        return torch.as_strided(storage, size, stride, offset)  # refuses to reach outside


def _collect(module: _Object, prefix: str, found: dict[str, Tensor], seen: set[int]) -> None:
    """Add a module's tensors and its submodules' to `found`, under dotted names."""
    if id(module) in seen:  # shared or its own child: names would multiply without end
        raise ValueError(f"module {prefix!r} occurs twice")
    seen.add(id(module))
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, _Object):
            _collect(value, f"{prefix}{name}.", found, seen)
