"""Energy of a measurement: a GPU's counter, a Jetson's rails, the counter of an x86 processor."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from benchmarks.bench.machine.jetson import read_rails, total_watts
from benchmarks.bench.machine.nvidia import asker, harmful, open_nvml, read_reasons, throttle_words
from benchmarks.bench.machine.sysfiles import numbered, read_int
from benchmarks.bench.results import Energy
from numclip_runtime.system import read_jetson

_SM_CLOCK = 1  # NVML_CLOCK_SM


class Meter:
    """A source of energy or power readings; opened on entry, closed on exit."""

    source = ""  # in words
    problem: str | None = None  # why it measures nothing; known after entry

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def joules(self) -> float | None:
        """Return a counter of energy that only grows; None if there is none."""
        return None

    def watts(self) -> float | None:
        """Return the power now; None if it is not reported."""
        return None

    def clock(self) -> tuple[int | None, int | None]:
        """Return a GPU's clock, MHz, and the bits of the reasons why it is low."""
        return None, None


class BoardMeter(Meter):
    """The rails of a Jetson: the whole module, CPU and GPU and memory. They have no counter."""

    def __init__(self, root: Path) -> None:
        self._root = root
        rails = read_rails(root)
        self.source = "module: " + ", ".join(rails)
        self.problem = None if rails else "no power rail can be read"

    def watts(self) -> float | None:
        """Return the total power now; a read takes about 0.5 ms per register of the chip."""
        return total_watts(read_rails(self._root))


class PackageMeter(Meter):
    """The energy counter of an Intel or AMD processor (RAPL), without memory and board."""

    source = "CPU package"

    def __init__(self, root: Path) -> None:
        folders = numbered(root / "sys/class/powercap", "intel-rapl:*")
        self._packages = [path for path in folders if path.name.count(":") == 1]
        self._seen: dict[Path, int] = {}
        self._total = 0
        if not self._packages:
            self.problem = "this CPU has no energy counter, or the virtual machine hides it"
        elif any(read_int(path / "energy_uj") is None for path in self._packages):
            self.problem = "only root may read the CPU's energy counter; run with sudo"

    def joules(self) -> float | None:
        """Return the energy since the first call; call it often, the counter wraps at 262 kJ."""
        for package in self._packages:
            now = read_int(package / "energy_uj")
            if now is None:
                return None
            step = now - self._seen.get(package, now)
            if step < 0:
                step += (read_int(package / "max_energy_range_uj") or 0) + 1
            self._total += step
            self._seen[package] = now
        return self._total / 1e6 if self._packages else None


class GpuMeter(Meter):
    """An NVIDIA GPU with its memory, and the clocks that it runs at meanwhile."""

    def __init__(self, index: int = 0) -> None:
        self.source = f"GPU {index}"
        self._index = index
        self._stack = ExitStack()
        self._ask: Callable[..., Any] = lambda *_: None

    def __enter__(self) -> GpuMeter:
        nvml, self.problem = self._stack.enter_context(open_nvml())
        if nvml is not None:
            try:
                self._ask = asker(nvml, nvml.nvmlDeviceGetHandleByIndex(self._index))
            except nvml.NVMLError as error:
                self.problem = f"NVML: GPU {self._index}: {error}"
        return self

    def __exit__(self, *_: object) -> None:
        self._ask = lambda *_: None
        self._stack.close()

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded; None before Volta and on some cards."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def watts(self) -> float | None:
        """Return the power now; from Ampere on it is the mean of the last second."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def clock(self) -> tuple[int | None, int | None]:
        """Return the clock of the multiprocessors, and the bits of `throttle_words`."""
        return self._ask("nvmlDeviceGetClockInfo", _SM_CLOCK), read_reasons(self._ask)


@dataclass(frozen=True)
class PowerReading:
    """Result of a `PowerSampler`."""

    source: str
    seconds: float
    joules: float | None
    mean_watts: float | None
    sm_mhz: tuple[int, int] | None  # lowest and highest clock of the GPU
    throttle: dict[str, float]  # reason -> share of the readings
    harmful: dict[str, float]  # likewise, those that spoil the measurement
    problem: str | None  # why there are no joules


class PowerSampler:
    """Context manager that measures energy while its body runs.

    ```
    with PowerSampler("gpu") as power:
        ...  # measure
    power.joules, power.mean_watts  # None where not available; power.problem gives the reason
    ```

    It counts all that the meter sees, other processes and the idle power included. A counter of
    energy is preferred; without one the power is read every `interval_s` and integrated. On a
    Jetson the rails are read for either device, else the device's own meter.

    Args:
        device: Where the network runs.
        gpu: Number of the GPU, as NVML counts.
        root: Folder that stands for `/`.
        interval_s: Seconds between two readings.
    """

    def __init__(
        self,
        device: Literal["cpu", "gpu"] = "cpu",
        *,
        gpu: int = 0,
        root: Path = Path("/"),
        interval_s: float = 0.1,
    ) -> None:
        self._meter: Meter
        if read_jetson(root) is not None:
            self._meter = BoardMeter(root)
        else:
            self._meter = GpuMeter(gpu) if device == "gpu" else PackageMeter(root)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="power sampler")
        self._readings: list[tuple[float, float | None, float | None]] = []  # s, J, W
        self._clocks: list[int] = []
        self._reasons: Counter[str] = Counter()
        self._harmful: Counter[str] = Counter()
        self.joules: float | None = None  # while the body ran
        self.mean_watts: float | None = None
        self.seconds = 0.0

    @property
    def source(self) -> str:
        """The meter, in words."""
        return self._meter.source

    @property
    def problem(self) -> str | None:
        """Why there are no joules; None if there are."""
        if self._meter.problem is None and self.joules is None and self.seconds:
            return f"{self.source} reports neither energy nor power"
        return self._meter.problem

    def __enter__(self) -> PowerSampler:
        self._meter.__enter__()
        if self._meter.problem is None:
            self._read()
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._read()
            self._finish()
        self._meter.__exit__(*exc)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        joules = self._meter.joules()
        watts = self._meter.watts() if joules is None else None
        self._readings.append((time.perf_counter(), joules, watts))
        mhz, bits = self._meter.clock()
        if mhz is not None:
            self._clocks.append(mhz)
        if bits is not None:
            self._reasons.update(throttle_words(bits))
            self._harmful.update(harmful(bits))

    def _finish(self) -> None:
        times, counted, watts = zip(*self._readings, strict=True)
        self.seconds = times[-1] - times[0]
        if counted[0] is not None and counted[-1] is not None:
            self.joules = counted[-1] - counted[0]
        else:
            # A rail that can't be read once leaves a gap, which the line over it closes.
            known = [(t, w) for t, w in zip(times, watts, strict=True) if w is not None]
            if len(known) >= 2:
                area = sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(known))
                self.joules = area * self.seconds / (known[-1][0] - known[0][0])
        if self.joules is not None and self.seconds:
            self.mean_watts = self.joules / self.seconds

    def reading(self) -> PowerReading:
        """Return the result, after the body has run."""
        n = len(self._readings)
        return PowerReading(
            source=self.source,
            seconds=self.seconds,
            joules=self.joules,
            mean_watts=self.mean_watts,
            sm_mhz=(min(self._clocks), max(self._clocks)) if self._clocks else None,
            throttle={word: round(count / n, 3) for word, count in self._reasons.items()},
            harmful={word: round(count / n, 3) for word, count in self._harmful.items()},
            problem=self.problem,
        )


def sum_power(readings: Sequence[PowerReading], images: int) -> Energy | None:
    """Add up readings; None where one has no joules.

    Args:
        readings: One per turn.
        images: That ran in all of them, untimed ones included: they used energy as well.
    """
    joules = [reading.joules for reading in readings if reading.joules is not None]
    if not joules or len(joules) < len(readings):
        return None
    seconds = sum(reading.seconds for reading in readings)
    total = sum(joules)
    return Energy(readings[0].source, total / images, total / seconds if seconds else None)
