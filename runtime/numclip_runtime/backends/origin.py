"""How a predictor's model was opened, so that a copy of the predictor can open it again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from numclip_runtime.backends import Backend, OpenOptions, open_backend
from numclip_runtime.model_files.given import is_bundle
from numclip_runtime.model_files.model_file import ModelFile
from numclip_runtime.model_files.names import is_served
from numclip_runtime.model_files.open_model import OpenModel

if TYPE_CHECKING:  # few models are on a server
    from numclip_runtime.model_files.served import ServedModel


@dataclass(frozen=True)
class Origin:
    """The file or address of a predictor's model and its options: a copy opens them again."""

    file: ModelFile | ServedModel
    options: OpenOptions
    choice: str | None = None  # the artefact of a bundle, and why; None: a file was given

    def reopen(self) -> Backend:
        """Open the model again.

        Raises:
            ModelError: if the model has changed; and see `open_backend`.
        """
        with self.file.reopened() as model:
            return open_backend(model, self.options)


def open_with_origin(path: Path, options: OpenOptions) -> tuple[Backend, Origin]:
    """Open a model: a file, the artefact of a bundle that this machine runs best, or a served one.

    Raises:
        NumclipError: see `open_backend` and `open_bundle`.
    """
    if is_served(path):
        from numclip_runtime.backends.triton import TritonBackend
        from numclip_runtime.model_files.served import Address, ServedModel

        options.check(path)
        served = TritonBackend(Address.parse(path), options)
        return served, Origin(ServedModel(served.address), options)
    if is_bundle(path):
        from numclip_runtime.backends.bundle_opening import open_bundle  # 30 ms of every start
        from numclip_runtime.model_files.bundle import read_bundle

        chosen = open_bundle(read_bundle(path), options)
        return chosen.backend, Origin(chosen.file, chosen.options, chosen.sentence)
    options.check(path)
    with OpenModel(path) as file:
        return open_backend(file, options), Origin(ModelFile(file), options)


def file_to_share(model: Path, options: OpenOptions) -> tuple[Path, OpenOptions, list[str]]:
    """Return what each process and each later run of a job opens: the same file.

    Of a bundle that is the artefact that opens here, which is found by opening it once.

    Args:
        model: A file or a bundle.
        options: How to open it; `sha256` may be that of bundle.json or of an artefact.

    Returns:
        The file; the options for it, which pin the artefact of a bundle; and sentences about the
        choice, none for a file.

    Raises:
        NumclipError: of a bundle, see `open_bundle`.
    """
    if not is_bundle(model):
        return model, options, []
    backend, origin = open_with_origin(model, options)
    backend.close()
    file = origin.file
    return file.path, replace(options, sha256=file.pin()), [*backend.notes, f"{origin.choice}."]
