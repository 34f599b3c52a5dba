"""The processor: cores, clocks, governor, speed; and temperatures of the machine."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.machine.sysfiles import numbered, read_int, read_scaled, read_text
from numclip_runtime.system import cpu_name, cpu_quota

_SLICE_S = 0.02
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower")


@dataclass
class Core:
    """Governor and clocks of one core, MHz."""

    core: int  # number
    governor: str | None
    mhz: int | None  # at the moment of reading
    min_mhz: int | None
    max_mhz: int | None  # allowed now
    hardware_mhz: int | None  # highest of the hardware


@dataclass
class Cpu:
    """The processor."""

    model: str
    usable_cores: int
    quota_cores: float | None  # of the container; None: no limit
    quota_stops: int | None  # how often the quota paused the container since it started
    turbo: bool | None
    cores: list[Core]
    thermal_throttles: int | None  # since boot
    speed: float | None  # million empty loops per second of CPU time


@dataclass
class Sensor:
    """A temperature."""

    name: str
    celsius: float
    limit_celsius: float | None  # at which the machine slows down or stops


def read_cpu(root: Path, cores: list[int], *, speed: float | None = None) -> Cpu:
    """Return model, limits and present clocks of the cores with these numbers."""
    quota = cpu_quota(root)
    base = root / "sys/devices/system/cpu"
    counters = numbered(base, "cpu*/thermal_throttle/core_throttle_count")
    throttled = [read_int(path) for path in counters]
    off, boost = read_int(base / "intel_pstate/no_turbo"), read_int(base / "cpufreq/boost")
    turbo = off == 0 if off is not None else None if boost is None else boost == 1
    return Cpu(
        model=cpu_name(root),
        usable_cores=len(cores),
        quota_cores=None if quota is None else quota.cores,
        quota_stops=None if quota is None else quota.stops,
        turbo=turbo,
        cores=read_clocks(root, cores),
        thermal_throttles=sum(filter(None, throttled)) if throttled else None,
        speed=speed,
    )


def read_clocks(root: Path, cores: Collection[int]) -> list[Core]:
    """Return governor and clocks per core; where there is no cpufreq, the clock of cpuinfo."""
    blocks = re.findall(
        r"^processor\s*:\s*(\d+)$(.*?)(?=^processor|\Z)",
        read_text(root / "proc/cpuinfo") or "",
        re.MULTILINE | re.DOTALL,
    )
    listed = {
        int(n): re.search(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE) for n, text in blocks
    }
    clocks = []
    for number in cores:
        folder = root / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        now, low, high, hardware = (
            _mhz(folder / f"{name}_freq")
            for name in ("scaling_cur", "scaling_min", "scaling_max", "cpuinfo_max")
        )
        if now is None and (match := listed.get(number)):
            now = round(float(match[1]))
        governor = read_text(folder / "scaling_governor")
        clocks.append(Core(number, governor, now, low, high, hardware))
    return clocks


def _mhz(path: Path) -> int | None:
    khz = read_int(path)
    return None if khz is None else round(khz / 1000)


def spin(seconds: float) -> float | None:
    """Keep one core busy; return its speed, million loops per second of CPU time.

    Two readings compare the clock, also in a virtual machine, which does not report it: the best of
    many short slices does not depend on other processes.
    """
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        loops, start = 0, time.thread_time()
        while (used := time.thread_time() - start) < _SLICE_S:
            for _ in range(2000):
                pass
            loops += 2000
        best = max(best, loops / used)
    return round(best / 1e6, 2) or None


def read_temperatures(root: Path) -> list[Sensor]:
    """Return all thermal zones and CPU sensors that can be read."""
    found: list[tuple[str, float | None, float | None]] = []
    for zone in numbered(root / "sys/class/thermal", "thermal_zone*"):
        name = read_text(zone / "type") or zone.name
        found.append((name, _celsius(zone / "temp"), _first_trip(zone)))
    for chip in numbered(root / "sys/class/hwmon", "hwmon*"):
        if read_text(chip / "name") in _CPU_SENSORS:
            for path in numbered(chip, "temp*_input"):
                stem = path.name.removesuffix("_input")
                name = read_text(path.with_name(f"{stem}_label")) or stem
                found.append((name, _celsius(path), _celsius(path.with_name(f"{stem}_crit"))))
    return [Sensor(name, now, limit) for name, now, limit in found if now is not None]


def _celsius(path: Path) -> float | None:
    return read_scaled(path, 1e-3, 1)


def _first_trip(zone: Path) -> float | None:
    """Return the lowest temperature at which the kernel slows down or stops the machine."""
    limits = []
    for path in numbered(zone, "trip_point_*_type"):
        celsius = _celsius(path.with_name(path.name.replace("_type", "_temp")))
        # Below 60 °C are trips that switch fans, and those that the firmware left empty.
        kinds = ("passive", "hot", "critical")
        if read_text(path) in kinds and celsius is not None and celsius >= 60:
            limits.append(celsius)
    return min(limits, default=None)
