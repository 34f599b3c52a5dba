"""CPU time since boot, from /proc: of the cores, of this process and of all others."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.state.files import read_text


@dataclass(frozen=True)
class Ticks:
    """Clock ticks (1/100 s) since boot, summed over the cores that this process may use."""

    busy: int  # user, nice, system, interrupts
    idle: int  # with waiting for disks
    steal: int  # a virtual machine's core was ready, and the host ran somebody else
    own: int  # of `busy`: this process, its children and theirs

    def to_dict(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Share:
    """What happened on the usable cores between two moments; 1 is all of their time."""

    others: float  # processes that this one did not start
    steal: float  # the host's other guests


def read_ticks(root: Path, cores: Collection[int]) -> Ticks | None:
    """Return the time counted so far; None where there is no /proc/stat.

    Args:
        root: Folder that stands for `/`.
        cores: Numbers of the cores to count.
    """
    busy = idle = steal = 0
    found = re.findall(r"^cpu(\d+) (.*)$", read_text(root / "proc/stat") or "", re.MULTILINE)
    for number, rest in found:
        if int(number) in cores:
            # user nice system idle iowait irq softirq steal; guest time is inside user and nice
            times = [int(part) for part in rest.split()[:8]] + [0] * 8
            idle += times[3] + times[4]
            steal += times[7]
            busy += times[0] + times[1] + times[2] + times[5] + times[6]
    if not found:
        return None
    return Ticks(busy, idle, steal, sum(_own(read_processes(root)).values()))


def share(before: Mapping[str, int], after: Mapping[str, int]) -> Share | None:
    """Return what the time between two readings went to; None if no tick passed.

    Args:
        before: `Ticks.to_dict()` of the first reading.
        after: The same of the second.
    """
    busy, idle, steal, own = (after[key] - before[key] for key in ("busy", "idle", "steal", "own"))
    total = busy + idle + steal
    if total <= 0:
        return None
    return Share(others=max(busy - own, 0) / total, steal=max(steal, 0) / total)


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat."""

    name: str  # of the program, 15 characters at most; no path, no arguments
    parent: int  # process id
    ticks: int  # CPU time of its threads
    reaped: int  # and of its children that have ended


def read_processes(root: Path) -> dict[int, Process]:
    """Return all processes that /proc shows, by id."""
    found = {}
    for folder in _process_folders(root):
        # The name stands in brackets and may hold spaces and brackets itself.
        match = re.match(r"\d+ \((.*)\) \S (.*)", read_text(folder / "stat") or "", re.DOTALL)
        if match is not None:
            numbers = match[2].split()
            user, system, reaped_user, reaped_system = map(int, numbers[10:14])
            found[int(folder.name)] = Process(
                match[1], int(numbers[0]), user + system, reaped_user + reaped_system
            )
    return found


def busiest(
    before: Mapping[int, Process], after: Mapping[int, Process], *, seconds: float, count: int = 3
) -> list[dict[str, str | float]]:
    """Return who used most CPU between two readings, this process and its children left out.

    Returns:
        `count` of {"name", "cores"} at most, the busiest first; 1 core is one core all the time.
    """
    own = _own(after)
    used: dict[str, int] = {}
    for pid, process in after.items():
        if pid not in own and pid in before:
            ticks = process.ticks - before[pid].ticks
            used[process.name] = used.get(process.name, 0) + ticks
    per_core = seconds * _ticks_per_second()
    top = sorted(used.items(), key=lambda item: -item[1])[:count]
    return [
        {"name": name, "cores": round(ticks / per_core, 2)}
        for name, ticks in top
        if ticks / per_core >= 0.05
    ]


def _own(processes: Mapping[int, Process]) -> dict[int, int]:
    """Return the ticks of this process and its descendants, by process id."""
    own: dict[int, int] = {}
    fresh = {os.getpid()} & processes.keys()
    while fresh:
        own |= {pid: processes[pid].ticks + processes[pid].reaped for pid in fresh}
        fresh = {pid for pid, process in processes.items() if process.parent in fresh} - own.keys()
    return own


def _process_folders(root: Path) -> list[Path]:
    try:
        return [entry for entry in (root / "proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
