"""Energy of a measurement: a GPU's counter, a Jetson's rails, the counter of an x86 processor."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.bench.machine.jetson import read_rails, total_watts
from benchmarks.bench.machine.nvidia import asker, harmful, open_nvml, read_reasons, throttle_words
from benchmarks.bench.machine.sysfiles import numbered, read_int
from benchmarks.bench.results import Energy
from numclip_runtime.system import read_jetson

_SM_CLOCK = 1  # NVML_CLOCK_SM


@dataclass
class Momentary:
    """One reading of a meter; None where it has no such sensor."""

    joules: float | None = None  # a counter that only grows
    watts: float | None = None
    mhz: int | None = None  # a GPU's clock
    reasons: int | None = None  # bits of the reasons why it is low


# Name of a meter, the reason why it measures nothing (or None), and the function that reads it
Meter: TypeAlias = tuple[str, str | None, Callable[[], Momentary]]


def board_meter(root: Path) -> Meter:
    """Return the rails of a Jetson, the whole module; a read lasts 0.5 ms per register."""
    rails = ", ".join(read_rails(root))
    problem = None if rails else "no power rail can be read"
    return f"module: {rails}", problem, lambda: Momentary(watts=total_watts(read_rails(root)))


def package_meter(root: Path) -> Meter:
    """Return the counter of an Intel or AMD processor (RAPL), without memory and board.

    Read it often: it wraps at 262 kJ.
    """
    folders = numbered(root / "sys/class/powercap", "intel-rapl:*")
    packages = [path for path in folders if path.name.count(":") == 1]
    seen: dict[Path, int] = {}
    total = 0

    def read() -> Momentary:
        nonlocal total
        for package in packages:
            now = read_int(package / "energy_uj")
            if now is None:
                return Momentary()
            step = now - seen.get(package, now)
            if step < 0:
                step += (read_int(package / "max_energy_range_uj") or 0) + 1
            total += step
            seen[package] = now
        return Momentary(joules=total / 1e6 if packages else None)

    problem = None
    if not packages:
        problem = "this CPU has no energy counter, or the virtual machine hides it"
    elif any(read_int(path / "energy_uj") is None for path in packages):
        problem = "only root may read the CPU's energy counter; run with sudo"
    return "CPU package", problem, read


@contextmanager
def gpu_meter(index: int) -> Iterator[Meter]:
    """Yield an NVIDIA GPU with its memory, and its clocks.

    The counter counts since the driver was loaded, and is absent before Volta and on some cards;
    the power is the mean of the last second from Ampere on.
    """
    with open_nvml() as (nvml, problem):
        read: Callable[[], Momentary] = Momentary
        if nvml is not None:
            try:
                ask = asker(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError as error:
                problem = f"NVML: GPU {index}: {error}"
            else:

                def read() -> Momentary:
                    energy = ask("nvmlDeviceGetTotalEnergyConsumption")  # mJ
                    power = ask("nvmlDeviceGetPowerUsage")  # mW
                    return Momentary(
                        joules=None if energy is None else energy / 1e3,
                        watts=None if power is None else power / 1e3,
                        mhz=ask("nvmlDeviceGetClockInfo", _SM_CLOCK),
                        reasons=read_reasons(ask),
                    )

        yield f"GPU {index}", problem, read


@dataclass(frozen=True)
class PowerReading:
    """Result of a `PowerSampler`."""

    source: str  # the meter, in words
    seconds: float
    joules: float | None
    mean_watts: float | None
    sm_mhz: tuple[int, int] | None  # lowest and highest clock of the GPU
    throttle: dict[str, float]  # reason -> share of the readings
    harmful: dict[str, float]  # likewise, those that spoil the measurement
    problem: str | None  # why there are no joules


class PowerSampler:
    """Context manager that measures energy while its body runs; `reading` is the result.

    It counts all that the meter sees, other processes and the idle power included. A counter of
    energy is preferred; without one the power is read every `interval_s` and integrated. On a
    Jetson the rails are read for either device, else the device's own meter.
    """

    reading: PowerReading  # after the body

    def __init__(
        self,
        device: Literal["cpu", "gpu"] = "cpu",
        *,
        gpu: int = 0,  # number of the GPU, as NVML counts
        root: Path = Path("/"),  # stands for `/`
        interval_s: float = 0.1,
    ) -> None:
        self._stack = ExitStack()
        if read_jetson(root) is not None:
            meter = board_meter(root)
        elif device == "gpu":
            meter = self._stack.enter_context(gpu_meter(gpu))
        else:
            meter = package_meter(root)
        self._source, self._problem, self._read = meter
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="power sampler")
        self._readings: list[tuple[float, Momentary]] = []

    def __enter__(self) -> PowerSampler:
        if self._problem is None:
            self._sample()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._sample()
        self._stack.close()
        self.reading = self._result()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        self._readings.append((time.perf_counter(), self._read()))

    def _result(self) -> PowerReading:
        all_now = [now for _, now in self._readings]
        seconds = self._readings[-1][0] - self._readings[0][0] if all_now else 0.0
        joules, problem = _joules(self._readings), self._problem
        if problem is None and joules is None:
            problem = f"{self._source} reports neither energy nor power"
        clocks = [now.mhz for now in all_now if now.mhz is not None]
        bits = [now.reasons for now in all_now if now.reasons is not None]
        throttle, harm = (
            {word: round(n / len(all_now), 3) for word, n in Counter(words).items()}
            for words in (
                [word for each in bits for word in throttle_words(each)],
                [word for each in bits for word in harmful(each)],
            )
        )
        return PowerReading(
            source=self._source,
            seconds=seconds,
            joules=joules,
            mean_watts=joules / seconds if joules is not None and seconds else None,
            sm_mhz=(min(clocks), max(clocks)) if clocks else None,
            throttle=throttle,
            harmful=harm,
            problem=problem,
        )


def _joules(readings: Sequence[tuple[float, Momentary]]) -> float | None:
    if not readings:
        return None
    (start, first), (end, last) = readings[0], readings[-1]
    if first.joules is not None and last.joules is not None:
        return last.joules - first.joules
    # A rail that can't be read once leaves a gap, which the line over it closes.
    known = [(t, now.watts) for t, now in readings if now.watts is not None]
    if len(known) < 2:
        return None
    area = sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(known))
    return area * (end - start) / (known[-1][0] - known[0][0])


def sum_power(readings: Sequence[PowerReading], images: int) -> Energy | None:
    """Add up the readings of all turns; None where one has no joules.

    `images` ran in all of them, untimed ones included: they used energy as well.
    """
    joules = [reading.joules for reading in readings if reading.joules is not None]
    if not joules or len(joules) < len(readings):
        return None
    total, seconds = sum(joules), sum(reading.seconds for reading in readings)
    return Energy(readings[0].source, total / images, total / seconds if seconds else None)
