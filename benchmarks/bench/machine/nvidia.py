"""NVIDIA GPUs by NVML: clocks, temperature, power, and the reasons for lower clocks.

Read on an H200; never while it was too hot or short of power. `pynvml` comes with the package
nvidia-ml-py, which needs no driver to be installed; without one `nvmlInit` fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h)
_REASONS = {
    0x001: "idle",
    0x002: "clocks set by the user",
    0x004: "power limit",
    0x008: "hardware slowdown",
    0x010: "synchronised boost of several GPUs",
    0x020: "driver's thermal slowdown",
    0x040: "hardware's thermal slowdown",
    0x080: "power brake of the machine",
    0x100: "display clocks",
}
_HARMFUL = 0x008 | 0x020 | 0x040 | 0x080  # heat, or a fault in the power supply
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM


@dataclass
class Gpu:
    """An NVIDIA GPU; None for what the GPU or the driver does not report."""

    name: str
    sm: str | None  # compute capability, "9.0"
    driver: str | None
    cuda: str | None  # newest version that the driver supports
    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    memory_max_mhz: int | None
    celsius: int | None
    slowdown_celsius: int | None
    throttle_reasons: list[str] | None
    harmful_reasons: list[str] | None  # those of them that spoil a measurement
    watts: float | None
    limit_watts: float | None
    energy_j: float | None  # since the driver was loaded
    memory_used_mb: float | None
    memory_mb: float | None
    persistence_mode: bool | None
    power_throttled_s: float | None  # since the driver was loaded
    thermal_throttled_s: float | None
    other_processes: int | None  # that compute on it


def throttle_words(bits: int) -> list[str]:
    """Return the reasons in words; bits that nvml.h does not name as numbers."""
    rest = bits & ~sum(_REASONS)
    words = [word for bit, word in _REASONS.items() if bits & bit]
    return [*words, f"unknown reason {rest:#x}"] if rest else words


def harmful(bits: int) -> list[str]:
    """Return the reasons that come from heat or a fault in the power supply."""
    return throttle_words(bits & _HARMFUL)


@contextmanager
def open_nvml() -> Iterator[tuple[Any, str | None]]:
    """Yield (module, None), or (None, why there is no NVML); shuts it down at the end."""
    try:
        import pynvml
    except ImportError:
        yield None, "nvidia-ml-py is not installed; install it with: pip install 'numclip[nvml]'"
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield None, f"NVML: {error}"
        return
    try:
        yield pynvml, None
    finally:
        pynvml.nvmlShutdown()


def asker(nvml: Any, *first: Any) -> Callable[..., Any]:
    """Return a function that asks NVML by a function's name; None for what it does not answer."""

    def ask(name: str, *rest: Any) -> Any:
        try:
            return getattr(nvml, name)(*first, *rest)
        except (nvml.NVMLError, AttributeError):  # an older driver, an older package
            return None

    return ask


def read_gpus() -> tuple[list[Gpu], str | None]:
    """Return the GPUs, and why there are none (None if there are)."""
    with open_nvml() as (nvml, problem):
        if nvml is None:
            return [], problem
        count = nvml.nvmlDeviceGetCount()
        found = [_read_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]
    return found, None if found else "NVML: no GPU"


def gpu_memory_mb() -> float | None:
    """Return the GPU memory that this process holds, MB; None without NVML or without a GPU."""
    with open_nvml() as (nvml, _):
        if nvml is None:
            return None
        used = 0
        for index in range(nvml.nvmlDeviceGetCount()):
            ask = asker(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            for process in ask("nvmlDeviceGetComputeRunningProcesses") or ():
                used += (process.usedGpuMemory or 0) if process.pid == os.getpid() else 0
    return used / 1e6


def _read_gpu(nvml: Any, handle: Any) -> Gpu:
    ask = asker(nvml, handle)
    memory, reasons = ask("nvmlDeviceGetMemoryInfo"), read_reasons(ask)
    celsius = ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    if celsius is None:  # its name from CUDA 14 on
        celsius = ask("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU)
    slowdown = nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    power, thermal = (ask("nvmlDeviceGetViolationStatus", policy) for policy in (0, 1))
    processes = ask("nvmlDeviceGetComputeRunningProcesses")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    cuda = asker(nvml)("nvmlSystemGetCudaDriverVersion")
    persistent = ask("nvmlDeviceGetPersistenceMode")
    others = {process.pid for process in processes or ()} - {os.getpid()}
    return Gpu(
        name=_text(ask("nvmlDeviceGetName")) or "GPU",
        sm=None if capability is None else f"{capability[0]}.{capability[1]}",
        driver=_text(asker(nvml)("nvmlSystemGetDriverVersion")),
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        sm_mhz=ask("nvmlDeviceGetClockInfo", _SM),
        sm_max_mhz=ask("nvmlDeviceGetMaxClockInfo", _SM),
        memory_mhz=ask("nvmlDeviceGetClockInfo", _MEMORY),
        memory_max_mhz=ask("nvmlDeviceGetMaxClockInfo", _MEMORY),
        celsius=celsius,
        slowdown_celsius=ask("nvmlDeviceGetTemperatureThreshold", slowdown),
        throttle_reasons=None if reasons is None else throttle_words(reasons),
        harmful_reasons=None if reasons is None else harmful(reasons),
        watts=_scaled(ask("nvmlDeviceGetPowerUsage"), 1e-3),
        limit_watts=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
        energy_j=_scaled(ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3),
        memory_used_mb=_scaled(getattr(memory, "used", None), 1e-6),
        memory_mb=_scaled(getattr(memory, "total", None), 1e-6),
        persistence_mode=None if persistent is None else bool(persistent),
        power_throttled_s=_scaled(getattr(power, "violationTime", None), 1e-9),
        thermal_throttled_s=_scaled(getattr(thermal, "violationTime", None), 1e-9),
        other_processes=None if processes is None else len(others),
    )


def read_reasons(ask: Callable[..., Any]) -> int | None:
    """Return the bits of the reasons for lower clocks, by the `asker` of a GPU."""
    bits: int | None = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if bits is None:  # its name before driver 535
        bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    return bits


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
