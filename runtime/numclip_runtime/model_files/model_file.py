"""The file of a model: its kind, its metadata, its SHA-256, and whether it is still the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias

from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.files import sha256
from numclip_runtime.metadata import ModelMetadata

# Device, inode, size, modified, changed (ns). The last one cannot be set by hand, so even a copy
# with the original's time differs.
Stamp: TypeAlias = tuple[int, int, int, int, int]

PLAN_SUFFIXES = (".plan", ".engine")


def read_metadata(path: str | os.PathLike[str]) -> ModelMetadata:
    """Return the metadata of a model file, without loading the model.

    Args:
        path: A `.onnx`, `.plan` or `.engine` file made by `numclip-export`.

    Raises:
        ModelError: if the file is missing, of another kind, damaged, or not made by numclip.
    """
    model = Path(path)
    check_model_path(model)
    if model.suffix in PLAN_SUFFIXES:
        from numclip_runtime.model_files.plan import read_plan_metadata

        return read_plan_metadata(model).metadata
    from numclip_runtime.model_files.onnx_file import read_onnx_metadata

    return read_onnx_metadata(model)


def check_model_path(model: Path) -> None:
    """Refuse a path that is not a model file.

    Raises:
        ModelError: if there is no such file, or its suffix is not that of an exported model.
    """
    if model.is_dir():
        raise ModelError(f"{model}: is a folder; give the model file inside it.")
    if not model.exists():
        raise ModelError(f"{model}: no such file; export one with `numclip-export --ckpt x.pt`.")
    if model.suffix not in (".onnx", *PLAN_SUFFIXES):
        hint = (
            " Export it with `numclip-export --ckpt`." if model.suffix in (".pt", ".ckpt") else ""
        )
        raise ModelError(f"{model}: unknown kind of model, expected a .onnx or .plan file.{hint}")


def pin_beside(path: Path) -> str | None:
    """Return the digest in `<path>.sha256`, a file as `sha256sum` writes it; None: no such file.

    Raises:
        UsageError: if the file cannot be read.
    """
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.exists():
        return None
    try:
        return beside.read_text("utf-8").split(maxsplit=1)[0]  # "<digest>  <name>"
    except (OSError, UnicodeDecodeError, IndexError):
        raise UsageError(f"{beside}: cannot read a SHA-256 from it.") from None


def check_sha256(path: Path, found: str, pinned: str, source: str = "the given SHA-256") -> None:
    """Compare a file's digest with the pinned one.

    Args:
        path: Named in errors.
        found: The file's SHA-256, hexadecimal.
        pinned: The expected SHA-256, hexadecimal.
        source: Origin of the expected one, named in errors.

    Raises:
        UsageError: if `pinned` is not a SHA-256.
        ModelError: if they differ.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", pinned) is None:
        raise UsageError(f"{source}: {pinned!r} is not a SHA-256, which has 64 hexadecimal digits.")
    if found != pinned.lower():
        raise ModelError(
            f"{path}: its SHA-256 is {found}, but {source} states {pinned.lower()}; it was not "
            "loaded. Copy it again from a trusted place, or build it again."
        )


class ModelFile:
    """A model file as it was when it was opened.

    The content decides: the file may have another time, or be on another machine. It is hashed only
    if the stamp has changed.

    Args:
        path: Of the file; kept as an absolute path.
        digest: Its SHA-256, hexadecimal, if known.
    """

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)
        self._digest = None if digest is None else digest.lower()
        # Before it is opened: if it is replaced meanwhile, the stamp is too old, never too new.
        self._stamp = _stamp(self.path)

    def pin(self) -> None:
        """Record the digest of the content, so that `check` works on any machine.

        Raises:
            ModelError: if the file has been replaced or removed since it was opened.
        """
        if self._digest is not None:
            return
        digest = None
        if self._stamp is not None and _stamp(self.path) == self._stamp:
            digest = sha256(self.path)
        if digest is None or _stamp(self.path) != self._stamp:  # replaced before, or while hashed
            raise ModelError(
                f"{self.path}: was replaced or removed since it was loaded, so the model cannot be "
                "opened again elsewhere; load it again."
            )
        self._digest = digest

    def check(self) -> None:
        """Refuse a file that is not the one that was pinned.

        Raises:
            ModelError: if it is missing, or has other content.
        """
        stamp = _stamp(self.path)
        if stamp is None:
            raise ModelError(
                f"{self.path}: no such file; a predictor opens its model again where it is "
                "unpickled, so the file must be there under the same path."
            )
        if stamp != self._stamp and sha256(self.path) != self._digest:
            raise ModelError(
                f"{self.path}: is another model than the one that was pickled; copy that one "
                "there, or load this one instead."
            )


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
