"""Read weights files of any origin as data: nothing in them is ever executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from numclip.weights.limits import check_archive, check_kind, check_legacy, check_safetensors
from numclip.weights.torchscript import is_torchscript, read_torchscript
from numclip_runtime import ModelError
from numclip_runtime.console import visible
from numclip_runtime.errors import first_line
from numclip_runtime.fields import parse_json

SAFETENSORS = ".safetensors"
CHECKPOINT_FORMAT = "numclip-checkpoint"  # value of "format" in numclip's own files
METADATA_KEY = "numclip"  # key in a safetensors file's metadata, JSON text
PREFIXES = ("module.", "model.", "_orig_mod.")  # left by DDP, Lightning and torch.compile


def read_content(path: Path) -> dict[str, Any]:
    """Read a weights file as one dict, its tensors usually under "state_dict".

    Files ending in .safetensors, TorchScript archives (tensors only, their code is not run) and
    all that `torch.load(weights_only=True)` accepts, Lightning's .ckpt included.

    Raises:
        ModelError: if the file is missing, damaged, or holds more than plain weights and settings.
    """
    check_kind(path)
    try:
        if path.suffix == SAFETENSORS:
            check_safetensors(path)
            return _read_safetensors(path)
        if archive := zipfile.is_zipfile(path):
            check_archive(path)
            if is_torchscript(path):
                return {"state_dict": read_torchscript(path)}
        else:
            check_legacy(path)
        # mapped: what is refused later is not in memory before
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: refused, not plain weights and settings ({_refusal(error)})."
        ) from None
    except Exception as error:  # damaged archives, pickles and headers share no error type
        raise ModelError(f"{path}: not a readable checkpoint ({_reason(error)}).") from None
    return content if isinstance(content, dict) else {}


def _refusal(error: pickle.UnpicklingError) -> str:
    """Return why a file was refused, without torch's advice to load it unsafely after all."""
    if named := re.search(r"(?:GLOBAL|it names) ([\w.]+)", str(error)):
        return f"it names {named[1]}"
    return "it is not a weights file, or holds objects that could run code"


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is marked as a numclip checkpoint."""
    return content.get("format") == CHECKPOINT_FORMAT


def _reason(error: Exception) -> str:
    line = first_line(error)
    # some errors hold only a key or byte of the damaged file
    return line[:300] if " " in line else "damaged, or not a weights file"


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        header = (file.metadata() or {}).get(METADATA_KEY, "{}")
        content = parse_json(header)
        if not isinstance(content, dict):
            raise ValueError("its metadata are no table")
        return content | {"state_dict": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118


def state_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file's content; floating-point ones as float32.

    Raises:
        ModelError: if there are none, or other objects among them.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(
            f"{path}: holds no weights (no tensors under 'state_dict', or at its top)."
        )
    if others := [str(k) for k, v in state.items() if not _is_plain(v)]:
        raise ModelError(
            f"{path}: {named(others, 'entry', 'entries')} among its weights: not a plain tensor."
        )
    return {
        str(k): (v.detach().float() if v.is_floating_point() else v.detach())
        for k, v in state.items()
    }


def _is_plain(value: object) -> bool:
    """Return whether this is a tensor with each of its numbers in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.numel() * value.itemsize <= value.untyped_storage().nbytes()  # else: expanded
    )


def without_prefix(
    state: Mapping[str, Tensor], roots: tuple[str, ...], *, more: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Strip "module." and the like, once or nested, until a key starts with one of `roots`.

    Keys that lack the prefix stay as they are, so that errors can name them.

    Args:
        state: Tensors by key.
        roots: Beginnings of the keys that are looked for.
        more: Further prefixes to strip.
    """
    prefixes = (*PREFIXES, *more)
    for first in ("", *prefixes):
        for prefix in (first, *(first + second for second in prefixes)):
            if any(key.startswith(prefix + root) for key in state for root in roots):
                return {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def check_fit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, target: str
) -> None:
    """Check that `found` has the names, shapes and kinds of numbers that `expected` has.

    Args:
        expected: State dict of the model to load into.
        found: State dict read.
        path: Named in the error.
        target: Name of the model, for the error.

    Raises:
        ModelError: naming missing and unexpected keys and those of another shape.
    """
    odd = []
    for key in sorted(set(expected) & set(found)):
        want, got = expected[key], found[key]
        if want.shape != got.shape:
            odd.append(f"{key} {list(got.shape)} for {list(want.shape)}")
        elif want.is_floating_point() != got.is_floating_point():
            odd.append(f"{key} {got.dtype} for {want.dtype}")
    problems = [
        f"{what} {named(keys, 'key', 'keys')}"
        for what, keys in (
            ("missing", sorted(set(expected) - set(found))),
            ("unexpected", sorted(set(found) - set(expected))),
            ("differently shaped", odd),
        )
        if keys
    ]
    if problems:
        raise ModelError(f"{path}: does not fit {target}: {'; '.join(problems)}.")


def named(keys: Iterable[str], one: str, many: str) -> str:
    """Return "3 keys (a, b, c)": the count, and the first three names."""
    names = list(keys)
    more = ", ..." if len(names) > 3 else ""
    first = ", ".join(visible(name[:100]) for name in names[:3])
    return f"{len(names)} {one if len(names) == 1 else many} ({first}{more})"
