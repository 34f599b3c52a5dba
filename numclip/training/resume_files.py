"""The files of an unfinished run: written whole, and read back with a sentence if they broke."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from numclip.weights.writing import write_torch
from numclip_runtime import ModelError
from numclip_runtime.errors import first_line
from numclip_runtime.files import atomic_path

BROKEN_FILE = (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError)


class WholeFiles(TorchCheckpointIO):
    """Write resume files beside their place: Lightning's go through /tmp, and a copy can break."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a file that appears under its name only when complete, and is on the disk then."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(path), sync=True) as temporary:
            write_torch(temporary, checkpoint)


def read_back(file: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file of this run, as data.

    Raises:
        ModelError: if it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(file, "cpu", weights_only=True, mmap=mmap)
    except BROKEN_FILE as error:
        raise ModelError(f"{file}: cannot be resumed from ({first_line(error)}).") from None
    return content
