"""The file of a model: its kind, its metadata, and whether it is still the same file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from numclip_runtime.errors import ModelError
from numclip_runtime.files import sha256
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.onnx_file import read_onnx_metadata

# Device, inode, size, modified, changed (ns). The last one cannot be set by hand: a copy differs,
# also one that keeps the original's time.
Stamp: TypeAlias = tuple[int, int, int, int, int]

PLAN_SUFFIXES = (".plan", ".engine")


def read_metadata(path: str | os.PathLike[str]) -> ModelMetadata:
    """Return what a model file says about itself, without loading the model.

    Args:
        path: A `.onnx`, `.plan` or `.engine` file made by `numclip-export`.

    Raises:
        ModelError: if the file is missing, of another kind, damaged, or not made by numclip.
    """
    model = Path(path)
    check_model_path(model)
    if model.suffix in PLAN_SUFFIXES:
        from numclip_runtime.plan import read_plan_metadata

        return read_plan_metadata(model).metadata
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


class ModelFile:
    """A model file as it was when it was opened.

    The content decides: the file may have another time, or be on another machine. It is hashed only
    where the stamp does not say that it is untouched.

    Args:
        path: Of the file; kept as an absolute path.
        digest: Its SHA-256, hexadecimal, where that is known.
    """

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)
        self._digest = None if digest is None else digest.lower()
        # Before it is opened: if it is replaced meanwhile, the stamp is too old, never too new.
        self._stamp = _stamp(self.path)

    def pin(self) -> None:
        """Make sure that the content is known, so that `check` works anywhere.

        Raises:
            ModelError: if the file is not the one that was opened any more.
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
            ModelError: if it is missing, or has another content.
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
