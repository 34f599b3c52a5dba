"""Where a predictor's model came from, so that a copy can open it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.backends import Backend, OpenOptions, open_backend
from numclip_runtime.model_files.model_file import ModelFile
from numclip_runtime.model_files.names import is_served
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.served import Address, ServedModel


@dataclass(frozen=True)
class Origin:
    """The file or address of a predictor's model and its options: a copy opens them again."""

    file: ModelFile | ServedModel
    options: OpenOptions

    @classmethod
    def of(cls, model: Path, options: OpenOptions) -> tuple[Backend, Origin]:
        """Open a model for the first time; see `open_backend`."""
        if is_served(model):
            from numclip_runtime.backends.triton import TritonBackend

            served = TritonBackend(Address.parse(model), options)
            return served, cls(ServedModel(served.address), options)
        with OpenModel(model) as file:
            backend = open_backend(file, options)
            return backend, cls(ModelFile(file), options)

    def reopen(self) -> Backend:
        """Open the model again.

        Raises:
            ModelError: if the model has changed; and see `open_backend`.
        """
        with self.file.reopened() as model:
            return open_backend(model, self.options)
