"""The metadata of a model file, and whether the file is still the one that was loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numclip_runtime.errors import ModelError
from numclip_runtime.files import sha256
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.given import is_bundle
from numclip_runtime.model_files.names import is_served, model_path
from numclip_runtime.model_files.open_model import OpenModel, Stamp, is_plan, stamp_of
from numclip_runtime.model_files.pin import path_beside


def read_metadata(path: str | os.PathLike[str]) -> ModelMetadata:
    """Return the metadata of a model file, without loading the model.

    Args:
        path: A `.onnx`, `.plan` or `.engine` file made by `numclip-export`, or another name of a
            model, see `load`. Of a bundle: those that its artefacts share, as float32.

    Raises:
        ModelError: if the file is missing, of another kind, damaged, or not made by numclip.
    """
    if is_served(path):
        from numclip_runtime.model_files.served import served_metadata

        return served_metadata(path)
    place = model_path(path)
    if is_bundle(place):
        from numclip_runtime.model_files.bundle import read_bundle

        return read_bundle(place).model
    with OpenModel(place) as model:
        if is_plan(model.path):
            from numclip_runtime.model_files.plan import read_plan_metadata

            return read_plan_metadata(model).metadata
        from numclip_runtime.model_files.onnx_file import read_onnx_metadata

        return read_onnx_metadata(model)


def files_of_model(model: Path) -> list[Path]:
    """Return the files that a model consists of: a file and its checksum, or those of a bundle.

    Raises:
        ModelError: if it is a bundle whose manifest cannot be read.
    """
    if is_bundle(model):
        from numclip_runtime.model_files.bundle import read_bundle

        return read_bundle(model).files
    return [model, path_beside(model)]


class ModelFile:
    """A model file as it was when it was opened.

    The content decides: the file may have another time, or be on another machine. It is hashed only
    if the stamp has changed.

    Args:
        model: The file while it is open; its path is kept as an absolute one.
    """

    def __init__(self, model: OpenModel) -> None:
        self.path = Path(os.path.abspath(model.path))  # noqa: PTH100 (resolve would follow links)
        self._digest = model.digest
        self._stamp: Stamp | None = model.stamp

    def pin(self) -> str:
        """Record the SHA-256 of the content, so that `reopened` works on any machine; return it.

        Raises:
            ModelError: if the file has been replaced or removed since it was opened.
        """
        if self._digest is not None:
            return self._digest
        digest = None
        if self._stamp is not None and _stamp(self.path) == self._stamp:
            digest = sha256(self.path)
        if digest is None or _stamp(self.path) != self._stamp:  # replaced before, or while hashed
            raise ModelError(
                f"{self.path}: was replaced or removed since it was loaded, so the model cannot be "
                "opened again elsewhere; load it again."
            )
        self._digest = digest
        return digest

    @contextmanager
    def reopened(self) -> Iterator[OpenModel]:
        """Yield the file, opened again, if it is still the one that was loaded.

        Raises:
            ModelError: if it is missing, or has other content.
        """
        if _stamp(self.path) is None:
            raise ModelError(
                f"{self.path}: no such file; a copy of a predictor opens its model again where it "
                "is used, so the file must be there under the same path."
            )
        with OpenModel(self.path) as model:
            if model.stamp != self._stamp and model.sha256() != self._digest:
                raise ModelError(
                    f"{self.path}: is another model than the one that was loaded before; copy that "
                    "one there, or load this one instead."
                )
            yield model


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path.stat())
    except OSError:
        return None
