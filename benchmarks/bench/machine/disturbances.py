"""Reasons in the machine's state to distrust the numbers: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.bench.machine.cpu import Cpu
from benchmarks.bench.machine.energy import PowerReading
from benchmarks.bench.machine.state import MachineState

LOAD_PER_CORE = 0.5  # runnable processes before the run
OTHERS = 0.1  # of the usable cores' time, during the run
STEAL = 0.02  # likewise
FALL = 0.1  # of the clock
FALL_LOOP = 0.2  # of the plain loop: on a busy virtual machine it varies by a tenth by itself
NEAR_C = 5  # below the limit
SWAPPED_PAGES = 256  # 1 MiB


def disturbances(
    before: MachineState, after: MachineState, during: Sequence[PowerReading] = ()
) -> list[str]:
    """Return a sentence for each reason to distrust the numbers: cause, figure, way out.

    `during` has the readings of the measurements between the two looks at the machine: a GPU
    reports why it is slow only while it works.
    """
    return [
        *_busy(before, after),
        *_slow_cpu(before.cpu, after.cpu),
        *_hot(before, after),
        *_memory_and_battery(before, after),
        *_gpu(before, after, during),
        *_jetson(before, after),
    ]


def _busy(before: MachineState, after: MachineState) -> Iterator[str]:
    cores, load = before.cpu.usable_cores, before.load_average
    if load is not None and load[0] > LOAD_PER_CORE * cores:
        yield (
            f"The machine was busy before the run: load {load[0]:.2f} on {_count(cores, 'core')}; "
            "stop other programs, wait a minute, and run again."
        )
    if before.ticks is None or after.ticks is None:
        return
    spent = after.ticks.since(before.ticks)
    if spent is None:
        return
    if spent.others > OTHERS:
        seen = [state.others.top for state in (after, before) if state.others is not None]
        names = ", ".join(dict.fromkeys(process.name for top in seen for process in top))
        yield (
            f"Other processes took {spent.others:.0%} of the CPU time during the run"
            f"{f' (among them {names})' if names else ''}; stop them and run again."
        )
    if spent.steal > STEAL:
        yield (
            f"The host gave {spent.steal:.1%} of this virtual machine's CPU time to other guests "
            "(steal); run again at a quieter hour, or on a machine of your own."
        )


def _slow_cpu(first: Cpu, last: Cpu) -> Iterator[str]:
    quota = first.quota_cores
    if quota is not None and quota < first.usable_cores:
        yield (
            f"The container may use {quota:g} of {_count(first.usable_cores, 'core')} (cgroup "
            "quota), so more threads than that are stopped for a part of each period; raise the "
            f"quota, or set --threads {max(int(quota), 1)}."
        )
    if "powersave" in {core.governor for core in first.cores} and not _speeds_up(first):
        yield (
            "The CPU governor is powersave, which holds the clock at its lowest; "
            "set another with: sudo cpupower frequency-set -g performance."
        )
    if (fall := _fall(first, last)) is not None:
        yield (
            f"The CPU became slower during the run: {fall}; cool the machine or fix its clock, and "
            "run again."
        )
    if throttles := _grown(first.thermal_throttles, last.thermal_throttles):
        yield (
            f"The CPU slowed itself down {_count(round(throttles), 'time')} because it was hot; "
            "cool it, or let it rest between runs."
        )


def _speeds_up(cpu: Cpu) -> bool:
    """Return whether "powersave" is only a name: with intel_pstate the CPU still speeds up."""
    return any(
        core.mhz > 1.5 * core.min_mhz
        for core in cpu.cores
        if core.mhz is not None and core.min_mhz is not None
    )


def _fall(first: Cpu, last: Cpu) -> str | None:
    """Return what fell too far: clock under load, clock allowed, or the plain loop's speed."""
    clocks, allowed = (
        [max((c for core in cpu.cores if (c := getattr(core, key))), default=None) for cpu in both]
        for both in [(first, last)]
        for key in ("mhz", "max_mhz")
    )
    for what, unit, limit, (was, now) in (
        ("clock", "MHz", FALL, clocks),
        ("highest clock allowed", "MHz", FALL, allowed),
        ("a plain loop", "million turns/s", FALL_LOOP, (first.speed, last.speed)),
    ):
        if was and now and now < (1 - limit) * was:
            return f"{what} from {was:.4g} to {now:.4g} {unit}"
    return None


def _hot(before: MachineState, after: MachineState) -> Iterator[str]:
    sensors: list[tuple[float, float, str]] = []  # degrees above the limit, the limit, name
    for state in (before, after):
        for name, celsius, limit in (
            *((s.name, s.celsius, s.limit_celsius) for s in state.temperatures),
            *((gpu.name, gpu.celsius, gpu.slowdown_celsius) for gpu in state.gpus),
        ):
            if celsius is not None and limit is not None and celsius >= limit - NEAR_C:
                sensors.append((celsius - limit, limit, name))
    if sensors:
        above, limit, name = max(sensors, key=lambda sensor: sensor[0])
        yield (
            f"{name} reached {limit + above:g} °C, and slows down at {limit:g} °C; cool the "
            "machine, or let it rest between runs."
        )


def _memory_and_battery(before: MachineState, after: MachineState) -> Iterator[str]:
    pages = _grown(before.memory.swapped_pages, after.memory.swapped_pages)
    if pages > SWAPPED_PAGES:
        yield (
            f"The machine swapped memory during the run ({pages * 4 / 1024:.0f} MB); "
            "close other programs, or measure smaller batches."
        )
    if "Discharging" in (before.battery, after.battery):
        yield "The machine ran on its battery, which lowers clocks; plug it in and run again."


def _gpu(
    before: MachineState, after: MachineState, during: Sequence[PowerReading]
) -> Iterator[str]:
    worst: dict[str, float] = {}
    for reading in during:
        for word, part in reading.harmful.items():
            worst[word] = max(worst.get(word, 0.0), part)
    for word, part in worst.items():
        yield (
            f"The GPU ran slower because of: {word} ({part:.0%} of a measurement); "
            "cool it and check its power supply, then run again."
        )
    for first, last in zip(before.gpus, after.gpus, strict=False):
        seconds = _grown(first.thermal_throttled_s, last.thermal_throttled_s)
        if seconds > 0.01 and not worst:
            yield (
                f"{last.name} slowed down for {seconds:.2g} s because it was hot; cool it, or "
                "let it rest between runs."
            )
        if last.harmful_reasons and not worst:
            yield (
                f"{last.name} ran slower right after the measurement because of: "
                f"{', '.join(last.harmful_reasons)}; cool it and check its power supply, then "
                "run again."
            )
        if first.other_processes:
            yield (
                f"{_count(first.other_processes, 'other process', 'es')} computed on "
                f"{first.name} before the run; stop them (nvidia-smi shows them) and run again."
            )


def _jetson(before: MachineState, after: MachineState) -> Iterator[str]:
    first, last = before.jetson, after.jetson
    if first is None or last is None:
        return
    best = first.best_mode
    if best is not None and first.power_mode not in (None, best.name):
        yield (
            f"The power mode was {first.power_mode}, not {best.name}; "
            f"for the board's best: sudo nvpmodel -m {best.id}."
        )
    if first.jetson_clocks is False:
        yield (
            "jetson_clocks was off, so that clocks followed the load and short runs were slow; "
            "fix them with: sudo jetson_clocks."
        )
    if events := _grown(first.overcurrent_events, last.overcurrent_events):
        yield (
            f"The module slowed down {_count(round(events), 'time')} for too high a current or "
            "too low a voltage; use a stronger power supply or a lower power mode."
        )
    if hot := sorted({*first.throttling, *last.throttling}):
        yield (
            f"The kernel slowed down {', '.join(hot)} because of heat; cool the module, or let it "
            "rest between runs."
        )


def _grown(first: float | None, last: float | None) -> float:
    return 0 if first is None or last is None else last - first


def _count(count: int, word: str, plural: str = "s") -> str:
    return f"{count} {word}{plural if count != 1 else ''}"
