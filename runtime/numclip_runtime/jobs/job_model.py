"""The model of a job: the same content in each process and on each machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.model_file import read_metadata
from numclip_runtime.model_files.names import is_named_model, model_path
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.pin import check_pinned


@dataclass(frozen=True)
class SharedModel:
    """A model as other processes and machines open it."""

    name: str  # absolute path; or a name that means the same everywhere
    sha256: str  # hexadecimal

    @classmethod
    def of(cls, model: str | os.PathLike[str], pinned: str | None = None) -> SharedModel:
        """Return it for a model that is here.

        Raises:
            ModelError: see `JobModel.read`.
        """
        digest = JobModel.read(model_path(model), pinned).sha256
        return cls(name_elsewhere(model), digest)


def name_elsewhere(model: str | os.PathLike[str]) -> str:
    """Return the name of a model for processes that start in other folders."""
    return os.fsdecode(model) if is_named_model(model) else os.path.abspath(model)  # noqa: PTH100


@dataclass(frozen=True)
class JobModel:
    """A model file before it is loaded."""

    path: Path
    sha256: str  # hexadecimal
    metadata: ModelMetadata

    @classmethod
    def read(cls, path: Path, pinned: str | None) -> JobModel:
        """Read the file once, for its SHA-256 and metadata.

        Args:
            path: A `.onnx` or `.plan` file.
            pinned: See `OpenOptions.sha256`.

        Raises:
            ModelError: if it is missing, broken, not made by numclip, or not the pinned one.
            UsageError: if the pin is none.
        """
        with OpenModel(path) as file:
            check_pinned(file, pinned)
            digest = file.sha256()
        return cls(path, digest, read_metadata(path))
