"""What in the machine's state makes the numbers worthless: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.state.ticks import share

LOAD_PER_CORE = 0.5  # runnable processes before the run
OTHERS = 0.1  # of the usable cores' time, during the run
STEAL = 0.02  # likewise
FALL = 0.1  # of the clock
FALL_LOOP = 0.2  # of the plain loop: on a busy virtual machine it varies by a tenth by itself
NEAR_C = 5  # below the limit
SWAPPED_PAGES = 256  # 1 MiB

State = Mapping[str, Any]


def warnings(before: State, after: State, during: Sequence[State] = ()) -> list[str]:
    """Return a sentence for each reason to distrust the numbers: what, figure, way out.

    Args:
        before: `capture()` before the run.
        after: `capture()` after it, on the same machine.
        during: `PowerSampler.to_dict()` of the measurements between: a GPU tells only while it
            works why it is slow.
    """
    return [
        *_busy(before, after),
        *_slow_cpu(before, after),
        *_hot(before, after),
        *_memory_and_battery(before, after),
        *_gpu(before, after, during),
        *_jetson(before, after),
    ]


def _busy(before: State, after: State) -> Iterator[str]:
    cores = before["cpu"]["usable_cores"]
    load = before["load_average"]
    if load is not None and load[0] > LOAD_PER_CORE * cores:
        yield (
            f"The machine was busy before the run: load {load[0]:.2f} on {_cores(cores)}; "
            "stop other programs, wait a minute, and run again."
        )
    if before["ticks"] is None or after["ticks"] is None:
        return
    spent = share(before["ticks"], after["ticks"])
    if spent is None:
        return
    if spent.others > OTHERS:
        names = _names(before, after)
        yield (
            f"Other processes took {spent.others:.0%} of the CPU time during the run"
            f"{f' (among them {names})' if names else ''}; stop them and run again."
        )
    if spent.steal > STEAL:
        yield (
            f"The host gave {spent.steal:.1%} of this virtual machine's CPU time to other guests "
            "(steal); run again at a quieter hour, or on a machine of your own."
        )


def _names(before: State, after: State) -> str:
    """Return the names of the processes that were busy at either end of the run."""
    found = []
    for state in (after, before):
        if state["others"] is not None:
            found += [process["name"] for process in state["others"]["top"]]
    return ", ".join(dict.fromkeys(found))


def _slow_cpu(before: State, after: State) -> Iterator[str]:
    first, last = before["cpu"], after["cpu"]
    quota = first["quota_cores"]
    if quota is not None and quota < first["usable_cores"]:
        yield (
            f"The container may use {quota:g} of {_cores(first['usable_cores'])} (cgroup quota), "
            "so more threads than that are stopped for a part of each period; raise the quota, "
            f"or set --threads {max(int(quota), 1)}."
        )
    governors = {core["governor"] for core in first["cores"]}
    if "powersave" in governors and not _drives_itself(first):
        yield (
            "The CPU governor is powersave, which holds the clock at its lowest; "
            "set another with: sudo cpupower frequency-set -g performance."
        )
    fall = _fall(before, after)
    if fall is not None:
        yield (
            f"The CPU became slower during the run: {fall}; cool the machine or fix its clock, and "
            "run again."
        )
    throttles = _grown(first["thermal_throttles"], last["thermal_throttles"])
    if throttles:
        yield (
            f"The CPU slowed itself down {_times(throttles)} because it was hot; cool it, or "
            "let it rest between runs."
        )


def _drives_itself(processor: State) -> bool:
    """Return whether "powersave" is only a name: with intel_pstate the CPU still speeds up."""
    return any(
        core["mhz"] > 1.5 * core["min_mhz"]
        for core in processor["cores"]
        if core["mhz"] is not None and core["min_mhz"] is not None
    )


def _fall(before: State, after: State) -> str | None:
    """Return what fell too far: clock under load, clock allowed, or the plain loop's speed."""
    speeds = [state["cpu"]["speed"] for state in (before, after)]
    for what, unit, limit, (first, last) in (
        ("clock", "MHz", FALL, _highest(before, after, "mhz")),
        ("highest clock allowed", "MHz", FALL, _highest(before, after, "max_mhz")),
        ("a plain loop", "million turns/s", FALL_LOOP, speeds),
    ):
        if first and last and last < (1 - limit) * first:
            return f"{what} from {first:.4g} to {last:.4g} {unit}"
    return None


def _highest(before: State, after: State, key: str) -> list[int | None]:
    clocks = [[core[key] for core in state["cpu"]["cores"]] for state in (before, after)]
    return [max((clock for clock in found if clock), default=None) for found in clocks]


def _hot(before: State, after: State) -> Iterator[str]:
    sensors = [
        (sensor["celsius"], sensor["limit_celsius"], sensor["name"])
        for state in (before, after)
        for sensor in state["temperatures"]
    ]
    sensors += [
        (gpu["celsius"], gpu["slowdown_celsius"], gpu["name"])
        for state in (before, after)
        for gpu in state["gpus"]
        if gpu["celsius"] is not None
    ]
    hot = [s for s in sensors if s[1] is not None and s[0] >= s[1] - NEAR_C]
    if hot:
        celsius, limit, name = max(hot, key=lambda sensor: sensor[0] - sensor[1])
        yield (
            f"{name} reached {celsius:g} °C, and slows down at {limit:g} °C; cool the machine, "
            "or let it rest between runs."
        )


def _memory_and_battery(before: State, after: State) -> Iterator[str]:
    pages = _grown(before["memory"]["swapped_pages"], after["memory"]["swapped_pages"])
    if pages and pages > SWAPPED_PAGES:
        yield (
            f"The machine swapped memory during the run ({pages * 4 / 1024:.0f} MB); "
            "close other programs, or measure smaller batches."
        )
    if "Discharging" in (before["battery"], after["battery"]):
        yield "The machine ran on its battery, which lowers clocks; plug it in and run again."


def _gpu(before: State, after: State, during: Sequence[State]) -> Iterator[str]:
    worst: dict[str, float] = {}
    for sampled in during:
        for word, part in sampled["harmful"].items():
            worst[word] = max(worst.get(word, 0.0), part)
    for word, part in worst.items():
        yield (
            f"The GPU ran slower because of: {word} ({part:.0%} of a measurement); "
            "cool it and check its supply of power, then run again."
        )
    for first, last in zip(before["gpus"], after["gpus"], strict=False):
        seconds = _grown(first["thermal_throttled_s"], last["thermal_throttled_s"])
        if seconds and seconds > 0.01 and not worst:
            yield (
                f"{last['name']} slowed down for {seconds:.2g} s because it was hot; cool it, or "
                "let it rest between runs."
            )
        if last["harmful_reasons"] and not worst:
            reasons = ", ".join(last["harmful_reasons"])
            yield (
                f"{last['name']} ran slower right after the measurement because of: {reasons}; "
                "cool it and check its supply of power, then run again."
            )
        if first["other_processes"]:
            yield (
                f"{_number(first['other_processes'], 'other process', 'es')} computed on "
                f"{first['name']} before the run; stop them (nvidia-smi shows them) and run again."
            )


def _jetson(before: State, after: State) -> Iterator[str]:
    board = before["jetson"]
    if board is None:
        return
    best = board["best_mode"]
    if best is not None and board["power_mode"] not in (None, best["name"]):
        yield (
            f"The power mode was {board['power_mode']}, not {best['name']}; "
            f"for the board's best: sudo nvpmodel -m {best['id']}."
        )
    if board["jetson_clocks"] is False:
        yield (
            "jetson_clocks was off, so that clocks followed the load and short runs were slow; "
            "fix them with: sudo jetson_clocks."
        )
    events = _grown(board["overcurrent_events"], after["jetson"]["overcurrent_events"])
    if events:
        yield (
            f"The module slowed down {_times(events)} for too high a current or too low a voltage; "
            "use a stronger power supply or a lower power mode."
        )
    hot = sorted({*board["throttling"], *after["jetson"]["throttling"]})
    if hot:
        yield (
            f"The kernel slowed down {', '.join(hot)} because of heat; cool the module, or let it "
            "rest between runs."
        )


def _grown(first: float | None, last: float | None) -> Any:
    return None if first is None or last is None else last - first


def _cores(count: int) -> str:
    return _number(count, "core", "s")


def _times(count: int) -> str:
    return _number(count, "time", "s")


def _number(count: int, word: str, plural: str) -> str:
    return f"{count} {word}{plural if count != 1 else ''}"
