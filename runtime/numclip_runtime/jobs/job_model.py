"""The model of a job: the same content in each process and on each machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.model_file import read_metadata
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.pin import check_pinned


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
