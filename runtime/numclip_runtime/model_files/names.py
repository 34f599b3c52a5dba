"""How a model is named: by its file, as one that comes with the package, or by its place on a hub.

A model file's name has a suffix and a packaged model's has none, so whatever lies in the current
folder, `quality` is the packaged model.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from numclip_runtime.errors import ModelError

HUB = "hf:/"  # hf://; pathlib makes one slash of two
_FOLDER = Path(__file__).parent.parent / "packaged"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def packaged_models() -> dict[str, Path]:
    """Return the file of each model that comes with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.onnx"))}


def is_named_model(model: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a packaged model or of a place on a hub, not of a file."""
    name = os.fsdecode(model)
    return name.startswith(HUB) or name in packaged_models()


def model_path(model: str | os.PathLike[str]) -> Path:
    """Return the file that a model's name stands for.

    Args:
        model: Path of a `.onnx` or `.plan` file; the name of a packaged model, such as "quality";
            or "hf://OWNER/NAME@REVISION", which is downloaded (see `hub_file`).

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
