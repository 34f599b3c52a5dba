"""The model of a job: the same content in each process and on each machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends.origin import file_to_share
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.model_file import read_metadata
from numclip_runtime.model_files.names import is_named_model, model_path
from numclip_runtime.model_files.open_model import OpenModel, is_plan
from numclip_runtime.model_files.pin import check_pinned


@dataclass(frozen=True)
class JobModel:
    """A model file before it is loaded."""

    name: str  # for other machines: an absolute path, or a name that means the same everywhere
    path: Path  # here
    sha256: str  # hexadecimal
    metadata: ModelMetadata
    # How each process and each later run opens it: pinned, and in bfloat16 only if that was asked
    # for, because machines differ in it, and the numbers of a job shall not
    opening: OpenOptions
    notes: tuple[str, ...] = ()  # sentences on the choice from a bundle; (): a file was given

    @classmethod
    def read(
        cls, model: str | os.PathLike[str], options: OpenOptions, path: Path | None = None
    ) -> JobModel:
        """Read the file once, for its SHA-256 and metadata.

        Args:
            model: As for `load`. Of a bundle, all processes open the artefact that opens here.
            options: How it will be opened; `sha256` pins it.
            path: Of the model, if it was looked up already.

        Raises:
            NumclipError: if it is missing, broken, not made by numclip, or not the pinned one; or
                nothing in a bundle opens here.
            UsageError: if the pin is none, or bfloat16 is asked for and not proved.
        """
        given = model_path(model) if path is None else path
        options = replace(options, bf16=options.bf16 is True)
        file, options, notes = file_to_share(given, options)
        with OpenModel(file) as opened:
            check_pinned(opened, options.sha256)
            digest = opened.sha256()
        named = os.fsdecode(model) if is_named_model(model) else os.path.abspath(file)  # noqa: PTH100
        metadata, opening = read_metadata(file), replace(options, sha256=digest)
        if options.bf16:  # before a cluster begins; this machine itself may lack bfloat16
            from numclip_runtime.backends.bf16 import require_proof

            options.check_device(file, plan=is_plan(file))
            require_proof(file, metadata)
        return cls(named, file, digest, metadata, opening, tuple(notes))
