"""NVIDIA Jetson: power rails, power mode, locked clocks, over-current events, from its files.

Not verified on hardware: written from files that others recorded on AGX Orin, Orin Nano and Nano.
NVML starts on a Jetson of JetPack 6, but says "not supported" to each question about power, clocks
and temperature, so all of it is read here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.state.files import numbered, read_int, read_text
from numclip_runtime.system import power_modes, read_jetson

# One rail that feeds all others: alone it is the total.
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
# AGX Orin: the memory's rail. Its power is in VIN_SYS_5V0 already, which feeds it.
_PARTS_OF_OTHERS = ("VDDQ_VDD2_1V8AO",)


def read_state(root: Path) -> dict[str, Any] | None:
    """Return what a Jetson tells of itself; None on other machines.

    Args:
        root: Folder that stands for `/`.
    """
    jetson = read_jetson(root)
    if jetson is None:
        return None
    rails = read_rails(root)
    return {
        "model": jetson.model,
        "l4t": jetson.l4t,
        "power_mode": jetson.power_mode,
        "best_mode": best_mode(root),
        "jetson_clocks": clocks_locked(root),
        "gpu": read_gpu(root),
        "rails_watts": rails,
        "total_watts": total_watts(rails),
        "overcurrent_events": _overcurrent_events(root),
        "throttling": _throttling(root),
    }


def best_mode(root: Path) -> dict[str, Any] | None:
    """Return {"id", "name"} of nvpmodel's fastest mode; None if the names don't tell.

    The number doesn't tell: MAXN is mode 0 on an AGX Orin, MAXN_SUPER mode 2 on an Orin Nano.
    """
    ranked = [(rank, n, name) for n, name in power_modes(root).items() if (rank := _rank(name))]
    if not ranked:
        return None
    _, number, name = max(ranked)
    return {"id": number, "name": name}


def _rank(mode: str) -> tuple[int, int] | None:
    if mode.startswith("MAXN"):
        return 1, len(mode)  # MAXN_SUPER before MAXN
    watts = re.search(r"(\d+)W", mode)
    return None if watts is None else (0, int(watts[1]))


def read_gpu(root: Path) -> dict[str, Any] | None:
    """Return governor and clocks (MHz) of the GPU in the chip; None if not found."""
    for folder in numbered(root / "sys/class/devfreq", "*"):
        if re.search(r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$", folder.name):
            now, low, high = (read_int(folder / f"{key}_freq") for key in ("cur", "min", "max"))
            return {
                "governor": read_text(folder / "governor"),
                "mhz": None if now is None else round(now / 1e6),
                "min_mhz": None if low is None else round(low / 1e6),
                "max_mhz": None if high is None else round(high / 1e6),
            }
    return None


def clocks_locked(root: Path) -> bool | None:
    """Return whether jetson_clocks is on: it raises the lowest clock of CPU and GPU to the highest.

    None if neither can be read.
    """
    pairs: list[tuple[int | None, int | None]] = []
    for folder in numbered(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq"):
        if read_int(folder.parent / "online") != 0:
            low, high = (read_int(folder / f"scaling_{end}_freq") for end in ("min", "max"))
            pairs.append((low, high))
    if (gpu := read_gpu(root)) is not None:
        pairs.append((gpu["min_mhz"], gpu["max_mhz"]))
    known = [low >= high for low, high in pairs if low is not None and high is not None]
    return all(known) if known else None


def read_rails(root: Path) -> dict[str, float]:
    """Return the power of each rail that can be read, in watts, by its label."""
    rails = {}
    i2c = root / "sys/bus/i2c/drivers"
    for folder in numbered(i2c, "ina3221/*/hwmon/hwmon*"):  # JetPack 5 and later
        for label in numbered(folder, "in*_label"):
            channel = label.name.removeprefix("in").removesuffix("_label")
            name = read_text(label)
            # mV and mA. "NC" is not connected; the sum of shunt voltages, in7, has no current.
            volts, amperes = (read_int(folder / f"{key}{channel}_input") for key in ("in", "curr"))
            if name and name != "NC" and volts is not None and amperes is not None:
                rails[name] = round(volts * amperes / 1e6, 3)
    for folder in numbered(i2c, "ina3221x/*/iio:device*"):  # JetPack 4
        for label in numbered(folder, "rail_name_*"):
            milliwatts = read_int(folder / f"in_power{label.name.rpartition('_')[2]}_input")
            name = read_text(label)
            if name and name != "NC" and milliwatts is not None:
                rails[name] = milliwatts / 1e3
    for folder in numbered(root / "sys/class/hwmon", "hwmon*"):  # Thor: µW of the whole board
        if read_text(folder / "name") == "ina238":
            microwatts = read_int(folder / "power1_input")
            if microwatts is not None:
                rails[read_text(folder / "in1_label") or "VIN"] = round(microwatts / 1e6, 3)
    return rails


def total_watts(rails: dict[str, float]) -> float | None:
    """Return the power of the module: its input rail, else the sum of those that don't overlap."""
    for name in _INPUT_RAILS:
        if name in rails:
            return rails[name]
    parts = [watts for name, watts in rails.items() if name not in _PARTS_OF_OTHERS]
    return round(sum(parts), 3) if parts else None


def _overcurrent_events(root: Path) -> int | None:
    """Return how often the module slowed down for too low a voltage or too high a current."""
    counters = numbered(root / "sys/class/hwmon", "hwmon*/oc*_event_cnt")
    counts = [count for path in counters if (count := read_int(path)) is not None]
    return sum(counts) if counts else None


def _throttling(root: Path) -> list[str]:
    """Return what the kernel slows down now because it is hot: "cpu", "gpu" and the like."""
    hot = []
    for device in numbered(root / "sys/class/thermal", "cooling_device*"):
        kind = read_text(device / "type") or ""
        if kind.endswith("throttle-alert") and (read_int(device / "cur_state") or 0) > 0:
            hot.append(kind.removesuffix("throttle-alert").rstrip("-"))
    return hot
