"""Files of /proc and /sys recorded on other machines, laid out as they were there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.bench.machine.state import CpuTime, MachineState, Memory, capture

FOLDER = Path(__file__).parents[1] / "data" / "machines"


def lay_out(name: str, root: Path, changes: Mapping[str, str] | None = None) -> Path:
    """Write tests/data/machines/NAME.json below `root`, with some files changed; return `root`.

    One JSON file and no folder of files: paths such as `iio:device0` can't be checked out on
    every system. null is a file that refuses to be read; a folder in its place does so as well.
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


def look_at(root: Path) -> MachineState:
    """Return the state of a machine laid out in `root`, quiet and with its memory free.

    Load, memory, battery and CPU time are not read from its files, but from this machine's psutil,
    so they are given here.
    """
    return replace(
        capture(root, window_s=0),
        load_average=[0.31, 0.40, 0.38],
        ticks=CpuTime(busy=1000, idle=5000, steal=10, own=200),
        others=None,
        memory=Memory(total_mb=15878, available_mb=9570, swapped_pages=3000),
        battery=None,
        gpus=[],
        gpu_problem="NVML: no GPU",
    )
