"""Files of /proc and /sys recorded on other machines, laid out as they were there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "machines"


def lay_out(name: str, root: Path, changes: Mapping[str, str] | None = None) -> Path:
    """Write tests/data/machines/NAME.json below `root`, with some files changed; return `root`.

    One JSON file and no folder of files: paths such as `iio:device0` can't be checked out on
    every system. null is a file that refuses to be read; a folder in its place does, too.
    """
    files = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["files"]
    for path, text in (files | dict(changes or {})).items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_text(text, encoding="utf-8")
    return root
