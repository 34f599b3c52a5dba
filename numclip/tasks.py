"""Task presets and task files (TOML)."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from numclip_runtime import Task, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def preset_names() -> list[str]:
    """Return the names of the presets that ship with numclip."""
    folder = resources.files("numclip") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name[-5:] == ".toml")


def load_task(name_or_path: str) -> Task:
    """Load a preset by name, or a task file by path.

    Raises:
        UsageError: if neither exists, or the file is not a valid task.
    """
    if name_or_path in preset_names():
        text = (resources.files("numclip") / "presets" / f"{name_or_path}.toml").read_text("utf-8")
    elif Path(name_or_path).suffix == ".toml":
        try:
            text = Path(name_or_path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name_or_path}: cannot read this task file ({error}).") from None
    else:
        raise UsageError(
            f"unknown task {name_or_path!r}; presets are {', '.join(preset_names())}, "
            "or give the path of a .toml file."
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name_or_path}: not valid TOML ({error}).") from None
    return Task.from_dict(data, source=name_or_path)
