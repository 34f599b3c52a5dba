"""The processor: cores, clocks, governor, temperature."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.state.files import numbered, read_int, read_text
from numclip_runtime.system import cpu_name, cpu_quota

_SLICE_S = 0.02
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower")


def read_cpu(root: Path, cores: list[int]) -> dict[str, Any]:
    """Return model, limits and clocks; clocks are those at the moment of the call.

    Args:
        root: Folder that stands for `/`.
        cores: Numbers of the usable cores.
    """
    quota = cpu_quota(root)
    counters = (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    throttled = [read_int(path) for path in counters]
    return {
        "model": cpu_name(root),
        "usable_cores": len(cores),
        "quota_cores": None if quota is None else quota.cores,  # of the container; None: no limit
        "quota_stops": None if quota is None else quota.stops,  # since it started
        "turbo": _turbo(root),
        "cores": read_clocks(root, cores),
        "thermal_throttles": sum(filter(None, throttled)) if throttled else None,  # since boot
    }


def read_clocks(root: Path, cores: Iterable[int]) -> list[dict[str, Any]]:
    """Return governor and clocks (MHz) per core; where there is no cpufreq, what cpuinfo tells."""
    blocks = re.findall(
        r"^processor\s*:\s*(\d+)$(.*?)(?=^processor|\Z)",
        read_text(root / "proc/cpuinfo") or "",
        re.MULTILINE | re.DOTALL,
    )
    told = {int(n): re.search(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE) for n, text in blocks}
    clocks = []
    for number in cores:
        folder = root / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        now = _mhz(folder / "scaling_cur_freq")
        if now is None and (match := told.get(number)):
            now = round(float(match[1]))
        clocks.append(
            {
                "core": number,
                "governor": read_text(folder / "scaling_governor"),
                "mhz": now,
                "min_mhz": _mhz(folder / "scaling_min_freq"),
                "max_mhz": _mhz(folder / "scaling_max_freq"),  # allowed now
                "hardware_mhz": _mhz(folder / "cpuinfo_max_freq"),
            }
        )
    return clocks


def _mhz(path: Path) -> int | None:
    khz = read_int(path)
    return None if khz is None else round(khz / 1000)


def _turbo(root: Path) -> bool | None:
    base = root / "sys/devices/system/cpu"
    off, on = read_int(base / "intel_pstate/no_turbo"), read_int(base / "cpufreq/boost")
    if off is not None:
        return off == 0
    return None if on is None else on == 1


def spin(seconds: float) -> float | None:
    """Keep one core busy, and return how fast it ran: million loops per second of CPU time.

    Two readings compare the clock, also in a virtual machine, which doesn't tell it: the best of
    many short slices doesn't depend on other processes. Clocks are read after it, because those
    of a sleeping core say nothing.
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


def read_temperatures(root: Path) -> list[dict[str, Any]]:
    """Return {"name", "celsius", "limit_celsius"} of each thermal zone and CPU sensor."""
    found = []
    for zone in numbered(root / "sys/class/thermal", "thermal_zone*"):
        celsius = _celsius(zone / "temp")
        if celsius is not None:
            name = read_text(zone / "type") or zone.name
            found.append({"name": name, "celsius": celsius, "limit_celsius": _first_trip(zone)})
    for sensor in numbered(root / "sys/class/hwmon", "hwmon*"):
        if read_text(sensor / "name") in _CPU_SENSORS:
            for path in numbered(sensor, "temp*_input"):
                celsius = _celsius(path)
                stem = path.name.removesuffix("_input")
                name = read_text(path.with_name(f"{stem}_label")) or stem
                limit = _celsius(path.with_name(f"{stem}_crit"))
                if celsius is not None:
                    found.append({"name": name, "celsius": celsius, "limit_celsius": limit})
    return found


def _celsius(path: Path) -> float | None:
    milli = read_int(path)
    return None if milli is None else round(milli / 1000, 1)


def _first_trip(zone: Path) -> float | None:
    """Return the lowest temperature at which the kernel slows down or stops the machine."""
    limits = []
    for path in numbered(zone, "trip_point_*_type"):
        celsius = _celsius(path.with_name(path.name.replace("_type", "_temp")))
        # Below 60 °C stand trips that switch fans, and those that the firmware left empty.
        kinds = ("passive", "hot", "critical")
        if read_text(path) in kinds and celsius is not None and celsius >= 60:
            limits.append(celsius)
    return min(limits, default=None)
