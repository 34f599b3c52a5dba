"""What a file is that was given in place of another one, by its name: no package is loaded first.

Programs are called with their arguments in the wrong order, or with a folder for a file, much more
often than with damaged files; these are seen here within milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.images.folder import LEFT_OUT_SUFFIXES
from numclip_runtime.images.formats import HEIF_SUFFIXES, IMAGE_SUFFIXES

BUNDLE_MANIFEST = "bundle.json"  # which makes a folder a bundle
PLAN_SUFFIXES = (".plan", ".engine")
MODEL_SUFFIXES = (".onnx", *PLAN_SUFFIXES)
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")
_KINDS = (
    (MODEL_SUFFIXES, "an exported model"),
    (CHECKPOINT_SUFFIXES, "a checkpoint"),
    (IMAGE_SUFFIXES | HEIF_SUFFIXES, "a picture"),
    (TABLE_SUFFIXES, "a table or list"),
    (LEFT_OUT_SUFFIXES, "a picture or video"),
    ((".toml", ".json", ".jsonl", ".html", ".md", ".sha256"), "a text file"),
)


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is by its suffix, such as "a picture"; None: that tells nothing."""
    suffix = Path(path).suffix.lower()
    return next((kind for suffixes, kind in _KINDS if suffix in suffixes), None)


def is_model_name(path: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of an exported model."""
    return Path(path).suffix.lower() in MODEL_SUFFIXES


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is that of a folder with a manifest."""
    with suppress(OSError, ValueError):
        return (Path(path) / BUNDLE_MANIFEST).is_file()
    return False


def such_as(folder: Path, suffixes: tuple[str, ...]) -> str:
    """Return ", such as FOLDER/m.onnx" if a folder holds a file of these kinds, else ""."""
    return next((f", such as {path}" for path in _inside(folder, suffixes)), "")


def _inside(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)


def require_images(path: Path | None) -> None:
    """Refuse what is evidently no source of images, before torch is loaded.

    Args:
        path: A table, list, tars or folder; None passes.

    Raises:
        UsageError: if it is by its name of another kind.
    """
    kind = None if path is None or path.is_dir() else kind_of(path)
    if kind not in (None, "a table or list"):
        raise UsageError(f"{path}: is {kind}; give a table (.csv), a list, tars or a folder.")


def require_checkpoint(
    path: Path, exported: str, *, missing: str = "; make one with `numclip-train`"
) -> None:
    """Refuse what is evidently no checkpoint, before torch is loaded.

    Args:
        path: The file; its suffix may be any, as that of `model.pth.tar-50`.
        exported: The way out if it is an exported model, such as "give it as --model".
        missing: The way out if there is no such file.

    Raises:
        ModelError: if it is missing, a folder, or by its name of another kind.
    """
    try:
        exists, folder = path.exists(), path.is_dir()
    except OSError as error:  # no permission to look into the folder, a name that is too long
        raise ModelError(f"{path}: cannot read this checkpoint ({error.strerror}).") from None
    if folder:
        inside = such_as(path, CHECKPOINT_SUFFIXES)
        raise ModelError(f"{path}: is a folder; give the checkpoint inside it{inside}.")
    kind = kind_of(path)
    if kind == "an exported model":
        raise ModelError(f"{path}: is an exported model, not a checkpoint; {exported}.")
    if kind not in (None, "a checkpoint"):
        raise ModelError(f"{path}: is {kind}, not a checkpoint; give a .pt or .safetensors file.")
    if not exists:
        raise ModelError(f"{path}: no such file{missing}.")
