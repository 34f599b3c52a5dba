"""The machine's state before and after a run, as pairs of texts for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.bench.machine.cpu import Core
from benchmarks.bench.machine.jetson import Board
from benchmarks.bench.machine.nvidia import Gpu
from benchmarks.bench.machine.state import MachineState, Others
from benchmarks.bench.output.table import NONE

_SWITCH = {True: "on", False: "off"}
Fact = tuple[str, str | None]  # what, and its text; None: not known


def state_facts(before: MachineState, after: MachineState) -> Iterator[tuple[str, str]]:
    """Yield (what, "before → after") of all that either look knows."""
    spent = None
    if before.ticks is not None and after.ticks is not None:
        spent = after.ticks.since(before.ticks)
    if spent is not None:
        yield "CPU time of other processes during the run", f"{spent.others:.0%}"
        yield "CPU time that the host gave to others (steal)", f"{spent.steal:.1%}"
    first, last = (
        {what: text for what, text in _facts(state) if text is not None}
        for state in (before, after)
    )
    for what in {**first, **last}:
        one, two = first.get(what, NONE), last.get(what, NONE)
        yield what, one if one == two else f"{one} → {two}"


def _facts(state: MachineState) -> Iterator[Fact]:
    yield from _cpu_facts(state)
    if state.jetson is not None:
        yield from _board_facts(state.jetson)
    for gpu in state.gpus:
        yield from _gpu_facts(gpu)
    if not state.gpus:
        yield "NVIDIA GPU", state.gpu_problem


def _cpu_facts(state: MachineState) -> Iterator[Fact]:
    cpu, load = state.cpu, state.load_average
    yield "Usable cores", str(cpu.usable_cores)
    yield "Quota of the container", _with(cpu.quota_cores, "{:g} cores")
    yield "CPU governor", ", ".join(sorted({c.governor for c in cpu.cores if c.governor})) or None
    yield "CPU clock, one core busy", _with(_highest(cpu.cores, "mhz"), "{} MHz")
    yield "CPU clock allowed", _with(_highest(cpu.cores, "max_mhz"), "{} MHz")
    yield "Turbo", _with(cpu.turbo, "{}", _SWITCH)
    yield "A plain loop", _with(cpu.speed, "{:g} million turns/s")
    yield "Load of 1, 5, 15 minutes", None if not load else "  ".join(f"{x:.2f}" for x in load)
    yield "Cores that others kept busy", None if state.others is None else _others(state.others)
    hot = [
        (sensor.celsius - sensor.limit_celsius, sensor)
        for sensor in state.temperatures
        if sensor.limit_celsius is not None
    ]
    _, nearest = max(hot, key=lambda pair: pair[0], default=(0, None))
    yield (
        "Temperature nearest to its limit",
        None
        if nearest is None
        else f"{nearest.name}: {nearest.celsius:g} of {nearest.limit_celsius:g} °C",
    )
    yield "Memory available", _with(state.memory.available_mb, "{:,} MB")
    yield "Battery", state.battery


def _others(others: Others) -> str:
    names = ", ".join(f"{top.name} {top.cores:g}" for top in others.top)
    return f"{others.cores:g}{f' ({names})' if names else ''}"


def _board_facts(board: Board) -> Iterator[Fact]:
    yield "Board", board.model
    yield "L4T", board.l4t
    yield "Power mode", board.power_mode
    yield "jetson_clocks", _with(board.jetson_clocks, "{}", _SWITCH)
    gpu = board.gpu
    yield "GPU clock", None if gpu is None else f"{gpu.mhz} of {gpu.max_mhz} MHz"
    yield "Power of the module", _with(board.total_watts, "{:.2f} W")
    rails = (f"{name} {watts:.2f} W" for name, watts in board.rails_watts.items())
    yield "Rails", ", ".join(rails) or None
    yield "Over-current events", _with(board.overcurrent_events, "{}")


def _gpu_facts(gpu: Gpu) -> Iterator[Fact]:
    about = (("SM", gpu.sm), ("driver", gpu.driver), ("CUDA", gpu.cuda))
    yield gpu.name, ", ".join(f"{word} {text}" for word, text in about if text) or None
    for what, value, most, unit in (
        ("clock", gpu.sm_mhz, gpu.sm_max_mhz, "MHz"),
        ("memory clock", gpu.memory_mhz, gpu.memory_max_mhz, "MHz"),
        ("temperature", gpu.celsius, gpu.slowdown_celsius, "°C"),
        ("power", gpu.watts, gpu.limit_watts, "W"),
        ("memory used", gpu.memory_used_mb, gpu.memory_mb, "MB"),
    ):
        limit = "" if most is None else f" of {most:,.0f}"
        yield f"{gpu.name}: {what}", None if value is None else f"{value:,.0f}{limit} {unit}"
    reasons = gpu.throttle_reasons
    yield (
        f"{gpu.name}: clocks held back by",
        None if reasons is None else ", ".join(reasons) or "nothing",
    )
    yield f"{gpu.name}: persistence", _with(gpu.persistence_mode, "{}", _SWITCH)
    yield f"{gpu.name}: other processes", _with(gpu.other_processes, "{}")


def _with(value: Any, form: str, words: Mapping[Any, str] | None = None) -> str | None:
    if value is None:
        return None
    return form.format(value if words is None else words[value])


def _highest(cores: Sequence[Core], key: str) -> int | None:
    return max((mhz for core in cores if (mhz := getattr(core, key)) is not None), default=None)
