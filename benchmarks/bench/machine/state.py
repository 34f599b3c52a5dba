"""One look at the machine."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.bench.machine import gpu_board as nvidia
from benchmarks.state import cpu, jetson, ticks
from benchmarks.state.files import numbered, read_table, read_text
from numclip_runtime.system import core_numbers

WINDOW_S = 0.25  # at 100 ticks/s a process that takes 4 % of a core shows


def capture(root: Path = Path("/"), *, window_s: float = WINDOW_S) -> dict[str, Any]:
    """Describe the machine's state now; takes `window_s`, keeping one core busy meanwhile.

    The busy core makes two readings alike: an idle one sleeps at any clock, and loses no time to
    other guests of the host.

    Args:
        root: Folder that stands for `/`.
        window_s: Seconds over which other processes are watched; 0 leaves them and `speed` out.

    Returns:
        Only dicts, lists, text, numbers and None, ready for JSON. Process names have no path.
    """
    cores = core_numbers(root)
    first = ticks.read_processes(root)
    start = time.perf_counter()
    begin = ticks.read_ticks(root, cores)
    speed = cpu.spin(window_s) if window_s else None
    described = cpu.read_cpu(root, cores)
    end = ticks.read_ticks(root, cores)
    others = None
    if begin is not None and end is not None:
        now = ticks.share(begin.to_dict(), end.to_dict())
        if now is not None:
            others = {
                "cores": round(now.others * len(cores), 2),
                "top": ticks.busiest(
                    first, ticks.read_processes(root), seconds=time.perf_counter() - start
                ),
            }
    gpus, problem = nvidia.read_gpus()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": described | {"speed": speed},  # million empty loops per second of CPU time
        "load_average": _load_average(root),  # 1, 5, 15 minutes
        "ticks": None if end is None else end.to_dict(),
        "others": others,  # CPU time of other processes, while this looked
        "memory": _memory(root),
        "temperatures": cpu.read_temperatures(root),
        "battery": _battery(root),  # None: none; "Discharging" runs slower on most laptops
        "gpus": gpus,
        "gpu_problem": problem,
        "jetson": jetson.read_state(root),
    }


def _load_average(root: Path) -> list[float] | None:
    words = (read_text(root / "proc/loadavg") or "").split()
    return [float(word) for word in words[:3]] or None


def _memory(root: Path) -> dict[str, int | None]:
    sizes, events = read_table(root / "proc/meminfo"), read_table(root / "proc/vmstat")
    total, free = (
        None if key not in sizes else sizes[key] // 1024 for key in ("MemTotal", "MemAvailable")
    )
    moved = [events[key] for key in ("pswpin", "pswpout") if key in events]
    return {
        "total_mb": total,
        "available_mb": free,
        "swapped_pages": sum(moved) if moved else None,  # in and out, since boot
    }


def _battery(root: Path) -> str | None:
    for supply in numbered(root / "sys/class/power_supply", "*"):
        # A mouse's battery has the scope "Device".
        if read_text(supply / "type") == "Battery" and read_text(supply / "scope") != "Device":
            return read_text(supply / "status")
    return None
