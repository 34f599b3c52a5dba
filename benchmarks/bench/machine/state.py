"""State of the machine at one moment: processor, load, memory, temperatures, GPUs.

Clocks, governors and temperatures are read from the system's files, below a folder that stands for
`/`, so that files recorded on other machines can be read. CPU time, processes, memory and battery
come from psutil. A fact that the machine does not report is None. Read on real machines: Linux on
x86, and NVML with an H200. Not verified on hardware: the Jetson readers.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.bench.machine.cpu import Cpu, Sensor, read_cpu, read_temperatures, spin
from benchmarks.bench.machine.jetson import Board, read_board
from benchmarks.bench.machine.nvidia import Gpu, read_gpus
from numclip_runtime.system import core_numbers

WINDOW_S = 0.25  # a process that uses 4 % of a core shows


@dataclass(frozen=True)
class CpuTime:
    """CPU time since boot in 1/100 s, summed over the cores that this process may use."""

    busy: int  # user, nice, system, interrupts
    idle: int  # with waiting for disks
    steal: int  # a virtual machine's core was ready, and the host ran another guest
    own: int  # of `busy`: this process, its children and theirs

    def since(self, before: CpuTime) -> CpuShare | None:
        """Return how the time since an earlier reading was spent; None if none passed."""
        busy, idle = self.busy - before.busy, self.idle - before.idle
        steal, own = self.steal - before.steal, self.own - before.own
        total = busy + idle + steal
        if total <= 0:
            return None
        return CpuShare(others=max(busy - own, 0) / total, steal=max(steal, 0) / total)


@dataclass(frozen=True)
class CpuShare:
    """Shares of the usable cores' time between two readings; 1 is all of it."""

    others: float  # processes that this one did not start
    steal: float  # the host's other guests


@dataclass(frozen=True)
class BusyProcess:
    """A process that used much CPU time."""

    name: str  # of the program; no path, no arguments
    cores: float  # 1 is one core all the time


@dataclass(frozen=True)
class Others:
    """CPU time of other processes while the machine was looked at."""

    cores: float
    top: list[BusyProcess]  # busiest first


@dataclass(frozen=True)
class Memory:
    """Memory of the machine."""

    total_mb: int | None  # 2**20 bytes
    available_mb: int | None
    swapped_pages: int | None  # of 4 KiB, in and out, since boot


@dataclass
class MachineState:
    """One look at the machine."""

    time: str  # ISO 8601, UTC
    cpu: Cpu
    load_average: list[float] | None  # of 1, 5 and 15 minutes
    ticks: CpuTime | None
    others: Others | None
    memory: Memory
    temperatures: list[Sensor]
    battery: str | None  # "Discharging" or "Plugged in"; None: no battery
    gpus: list[Gpu]
    gpu_problem: str | None  # why there is no GPU
    jetson: Board | None


def capture(root: Path = Path("/"), *, window_s: float = WINDOW_S) -> MachineState:
    """Describe the machine's state now; lasts `window_s` and keeps one core busy meanwhile.

    The busy core makes two readings comparable: an idle one sleeps at any clock, and loses no time
    to other guests of the host. A window of 0 leaves other processes and `speed` out. `root` stands
    for `/`, for what is read from files.
    """
    numbers = core_numbers(root)
    processes, begin, start = _process_seconds(), read_cpu_time(numbers), time.perf_counter()
    speed = spin(window_s) if window_s else None
    cpu = read_cpu(root, numbers, speed=speed)  # at once: clocks of a sleeping core say nothing
    end = read_cpu_time(numbers)
    spent = end.since(begin)
    others = None
    if spent is not None and window_s:
        seconds = time.perf_counter() - start
        top = busiest(processes, _process_seconds(), seconds=seconds)
        others = Others(round(spent.others * len(numbers), 2), top)
    gpus, problem = read_gpus()
    return MachineState(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu=cpu,
        load_average=load_average(),
        ticks=end,
        others=others,
        memory=_memory(),
        temperatures=read_temperatures(root),
        battery=_battery(),
        gpus=gpus,
        gpu_problem=problem,
        jetson=read_board(root),
    )


def load_average() -> list[float] | None:
    """Return the 1, 5 and 15 minute load averages; None where the system has none."""
    if not hasattr(os, "getloadavg"):
        return None
    return [round(value, 2) for value in os.getloadavg()]


def read_cpu_time(cores: Collection[int]) -> CpuTime:
    """Return the CPU time of some cores so far."""
    import psutil

    # psutil counts the cores that are online; a Jetson's low-power modes turn off the last ones
    found = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if number in cores]

    def total(*names: str) -> int:
        return round(100 * sum(getattr(times, name, 0) for times in found for name in names))

    me = psutil.Process()
    own = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # it has just ended: its parent has its time
            continue
        own += times.user + times.system + times.children_user + times.children_system
    busy = total("user", "nice", "system", "irq", "softirq")
    return CpuTime(busy, total("idle", "iowait"), total("steal"), round(100 * own))


def _process_seconds() -> dict[int, tuple[str, float]]:
    """Return name and CPU seconds of all processes but this one and its children, by id."""
    import psutil

    me = psutil.Process()
    own = {me.pid, *(child.pid for child in me.children(recursive=True))}
    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if process.pid not in own and times is not None:
            found[process.pid] = (process.info["name"] or "?", times.user + times.system)
    return found


def busiest(
    before: Mapping[int, tuple[str, float]],
    after: Mapping[int, tuple[str, float]],
    *,
    seconds: float,
    count: int = 3,
) -> list[BusyProcess]:
    """Return the programs that used most CPU time, the busiest first, from 5 % of a core on.

    Both readings map process ids to names and CPU seconds; `seconds` lie between them.
    """
    used: dict[str, float] = {}
    for pid, (name, now) in after.items():
        if pid in before:
            used[name] = used.get(name, 0.0) + now - before[pid][1]
    top = sorted(used.items(), key=lambda item: -item[1])[:count]
    return [BusyProcess(n, round(s / seconds, 2)) for n, s in top if s / seconds >= 0.05]


def _memory() -> Memory:
    import psutil

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the kernel counts no swapping
        swap = psutil.swap_memory()
    sizes = psutil.virtual_memory()
    return Memory(sizes.total >> 20, sizes.available >> 20, (swap.sin + swap.sout) // 4096)


def _battery() -> str | None:
    import psutil

    battery: Any = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return None
    return "Discharging" if battery.power_plugged is False else "Plugged in"
