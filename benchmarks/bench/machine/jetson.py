"""NVIDIA Jetson: power rails, power mode, locked clocks, over-current events, from its files.

Not verified on hardware: written from files that others recorded on AGX Orin, Orin Nano and Nano.
NVML starts on a Jetson of JetPack 6, but answers "not supported" to each question about power,
clocks and temperature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.machine.sysfiles import numbered, read_int, read_scaled, read_text
from numclip_runtime.system import power_modes, read_jetson

# One rail that feeds all others: alone it is the total.
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
# AGX Orin: the memory's rail. Its power is in VIN_SYS_5V0 already, which feeds it.
_PARTS_OF_OTHERS = ("VDDQ_VDD2_1V8AO",)


@dataclass
class PowerMode:
    """A mode of nvpmodel."""

    id: int
    name: str


@dataclass
class BoardGpu:
    """The GPU inside a Jetson's chip."""

    governor: str | None
    mhz: int | None
    min_mhz: int | None
    max_mhz: int | None


@dataclass
class Board:
    """An NVIDIA Jetson module."""

    model: str
    l4t: str | None
    power_mode: str | None
    best_mode: PowerMode | None  # None: the names do not show it
    jetson_clocks: bool | None
    gpu: BoardGpu | None
    rails_watts: dict[str, float]
    total_watts: float | None
    overcurrent_events: int | None  # slow-downs for too low a voltage or too high a current
    throttling: list[str]  # parts that the kernel slows down now because of heat: "cpu", "gpu"


def read_board(root: Path) -> Board | None:
    """Return the state of a Jetson; None on other machines."""
    jetson = read_jetson(root)
    if jetson is None:
        return None
    rails = read_rails(root)
    counters = numbered(root / "sys/class/hwmon", "hwmon*/oc*_event_cnt")
    events = [count for path in counters if (count := read_int(path)) is not None]
    return Board(
        model=jetson.model,
        l4t=jetson.l4t,
        power_mode=jetson.power_mode,
        best_mode=best_mode(root),
        jetson_clocks=clocks_locked(root),
        gpu=_board_gpu(root),
        rails_watts=rails,
        total_watts=total_watts(rails),
        overcurrent_events=sum(events) if events else None,
        throttling=_throttling(root),
    )


def best_mode(root: Path) -> PowerMode | None:
    """Return nvpmodel's fastest mode by its name; None if the names do not show it.

    The number does not: MAXN is mode 0 on an AGX Orin, MAXN_SUPER mode 2 on an Orin Nano.
    """
    ranked = []
    for number, name in power_modes(root).items():
        watts = re.search(r"(\d+)W", name)
        if name.startswith("MAXN"):  # MAXN_SUPER before MAXN
            ranked.append((1, len(name), number, name))
        elif watts is not None:
            ranked.append((0, int(watts[1]), number, name))
    return PowerMode(*max(ranked)[2:]) if ranked else None


def _board_gpu(root: Path) -> BoardGpu | None:
    for folder in numbered(root / "sys/class/devfreq", "*"):
        if re.search(r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$", folder.name):
            hertz = [read_int(folder / f"{key}_freq") for key in ("cur", "min", "max")]
            now, low, high = (None if hz is None else round(hz / 1e6) for hz in hertz)
            return BoardGpu(read_text(folder / "governor"), now, low, high)
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
    if (gpu := _board_gpu(root)) is not None:
        pairs.append((gpu.min_mhz, gpu.max_mhz))
    known = [low >= high for low, high in pairs if low is not None and high is not None]
    return all(known) if known else None


def read_rails(root: Path) -> dict[str, float]:
    """Return the power of each rail that can be read, in watts, by its label."""
    rails: dict[str, float | None] = {}
    i2c = root / "sys/bus/i2c/drivers"
    for folder in numbered(i2c, "ina3221/*/hwmon/hwmon*"):  # JetPack 5 and later
        for label in numbered(folder, "in*_label"):
            channel = label.name.removeprefix("in").removesuffix("_label")
            # mV and mA. "NC" is not connected; the sum of shunt voltages, in7, has no current.
            volts, amperes = (read_int(folder / f"{key}{channel}_input") for key in ("in", "curr"))
            if volts is not None and amperes is not None:
                rails[read_text(label) or "NC"] = round(volts * amperes / 1e6, 3)
    for folder in numbered(i2c, "ina3221x/*/iio:device*"):  # JetPack 4
        for label in numbered(folder, "rail_name_*"):
            power = folder / f"in_power{label.name.rpartition('_')[2]}_input"
            rails[read_text(label) or "NC"] = read_scaled(power, 1e-3, 3)
    for folder in numbered(root / "sys/class/hwmon", "hwmon*"):  # Thor: µW of the whole board
        if read_text(folder / "name") == "ina238":
            name = read_text(folder / "in1_label") or "VIN"
            rails[name] = read_scaled(folder / "power1_input", 1e-6, 3)
    return {name: w for name, w in rails.items() if name != "NC" and w is not None}


def total_watts(rails: dict[str, float]) -> float | None:
    """Return the power of the module: its input rail, else the sum of those that don't overlap."""
    for name in _INPUT_RAILS:
        if name in rails:
            return rails[name]
    parts = [watts for name, watts in rails.items() if name not in _PARTS_OF_OTHERS]
    return round(sum(parts), 3) if parts else None


def _throttling(root: Path) -> list[str]:
    hot = []
    for device in numbered(root / "sys/class/thermal", "cooling_device*"):
        kind = read_text(device / "type") or ""
        if kind.endswith("throttle-alert") and (read_int(device / "cur_state") or 0) > 0:
            hot.append(kind.removesuffix("throttle-alert").rstrip("-"))
    return hot
