"""What measures power: a GPU's counter, a Jetson's rails, the counter of an x86 processor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from benchmarks.bench.machine.gpu_board import asker, open_nvml, read_reasons
from benchmarks.state.files import numbered, read_int
from benchmarks.state.jetson import read_rails, total_watts

_SM_CLOCK = 1  # NVML_CLOCK_SM


class Meter(Protocol):
    """Something that measures power; opened on entry, closed on exit."""

    source: str  # what it measures, in words
    problem: str | None  # why it measures nothing; known after entry

    def __enter__(self) -> Meter: ...

    def __exit__(self, *exc: object) -> None: ...

    def joules(self) -> float | None:
        """Return a counter of energy that only grows; None if there is none."""

    def watts(self) -> float | None:
        """Return the power now; None if not told."""


class BoardMeter:
    """The rails of a Jetson: the whole module, CPU and GPU and memory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        rails = read_rails(root)
        self.source = "module: " + ", ".join(rails)
        self.problem = None if rails else "no power rail can be read"

    def __enter__(self) -> BoardMeter:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def joules(self) -> None:
        """Return None: rails have no counter."""

    def watts(self) -> float | None:
        """Return the total power now; a read takes about 0.5 ms per register of the chip."""
        return total_watts(read_rails(self._root))


class PackageMeter:
    """The energy counter of an Intel or AMD processor (RAPL); memory and board are not in it."""

    source = "CPU package"

    def __init__(self, root: Path) -> None:
        folders = numbered(root / "sys/class/powercap", "intel-rapl:*")
        self._packages = [path for path in folders if path.name.count(":") == 1]
        self._seen: dict[Path, int] = {}
        self._total = 0
        self.problem: str | None = None
        if not self._packages:
            self.problem = "this CPU has no energy counter, or the virtual machine hides it"
        elif any(read_int(path / "energy_uj") is None for path in self._packages):
            self.problem = "only root may read the CPU's energy counter; run with sudo"

    def __enter__(self) -> PackageMeter:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def joules(self) -> float | None:
        """Return the energy since the first call; ask often, the counter starts again at 262 kJ."""
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

    def watts(self) -> None:
        """Return None: the counter is enough."""


class GpuMeter:
    """An NVIDIA GPU with its memory, and the clocks that it runs at meanwhile."""

    def __init__(self, index: int = 0) -> None:
        self.source = f"GPU {index}"
        self.problem: str | None = None
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

    def __exit__(self, *exc: object) -> None:
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

    def sm_mhz(self) -> int | None:
        """Return the clock of the multiprocessors."""
        clock: int | None = self._ask("nvmlDeviceGetClockInfo", _SM_CLOCK)
        return clock

    def reasons(self) -> int | None:
        """Return the bits of the reasons for lower clocks; see `nvidia.throttle_words`."""
        return read_reasons(self._ask)
