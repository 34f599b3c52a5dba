"""How a model is named: by its file, as a packaged one, or by its place on a hub or a server.

A model file's name has a suffix and a packaged model's has none, so whatever lies in the current
folder, `quality` is the packaged model.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from numclip_runtime.errors import ModelError

HUB = "hf:/"  # hf://; pathlib makes one slash of two
TRITON = "triton:/"  # triton://
_FOLDER = Path(__file__).parent.parent / "packaged"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def packaged_models() -> dict[str, Path]:
    """Return the file of each model that comes with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.onnx"))}


def is_named_model(model: str | os.PathLike[str]) -> bool:
    """Return whether a name is of a packaged model, or a place on a hub or server; not a file's."""
    name = os.fsdecode(model)
    return name.startswith(HUB) or is_served(name) or name in packaged_models()


def is_served(model: str | os.PathLike[str]) -> bool:
    """Return whether a name is the address of a model on a Triton server."""
    return f"{address_text(model)}/".startswith(TRITON)


def address_text(model: str | os.PathLike[str]) -> str:
    """Return an address with two slashes, of which pathlib leaves one, or a backslash."""
    return re.sub(r"^triton:[/\\]+(.*)", _slashed, os.fsdecode(model), flags=re.DOTALL)


def _slashed(found: re.Match[str]) -> str:
    return "triton://" + found[1].replace("\\", "/")


def short_name(model: Path) -> str:
    """Return a model's name without its folder or server."""
    if is_served(model):
        return address_text(model).partition("?")[0].split("/", 4)[3]
    return model.name


def model_path(model: str | os.PathLike[str]) -> Path:
    """Return the file that a model's name stands for; the address of a served one stays as it is.

    Args:
        model: Path of a `.onnx` or `.plan` file; the name of a packaged model, such as "quality";
            "hf://OWNER/NAME@REVISION", which is downloaded (see `hub_file`); or
            "triton://HOST:PORT/MODEL", a model on a server (see `Address`).

    Returns:
        Path of the file. One that was given as a path need not exist.

    Raises:
        ModelError: if it is a single word, and neither a packaged model nor a file; or if the hub
            has no such file.
        MissingDependencyError: if the model is on a hub and the extra `hub` is not installed.
        UsageError: if it is no complete name of a place on a hub.
    """
    name = os.fsdecode(model)
    if name.startswith(HUB):
        from numclip_runtime.model_files.hub import hub_file

        return hub_file(name)
    path = Path(name)
    if _NAME.fullmatch(name):
        packaged = _FOLDER / f"{name}.onnx"
        if packaged.is_file():
            return packaged
        if not path.exists():
            raise ModelError(
                f"{name}: neither a file nor a packaged model; packaged are "
                f"{', '.join(packaged_models()) or 'none'}."
            )
    return path
