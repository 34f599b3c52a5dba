"""NVIDIA GPUs as NVML tells of them: clocks, temperature, power, why it runs slower.

Not verified on hardware. `pynvml` comes with the package nvidia-ml-py, which needs no driver to be
installed, and says at `nvmlInit` that there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h), and whether they spoil a measurement.
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
_HARMFUL = 0x008 | 0x020 | 0x040 | 0x080


def throttle_words(bits: int) -> list[str]:
    """Return the reasons in words; bits that nvml.h doesn't name as numbers."""
    rest = bits & ~sum(_REASONS)
    words = [word for bit, word in _REASONS.items() if bits & bit]
    return [*words, f"unknown reason {rest:#x}"] if rest else words


def harmful(bits: int) -> list[str]:
    """Return, of the reasons, those that come from heat or a fault in the supply of power."""
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


def read_gpus() -> tuple[list[dict[str, Any]], str | None]:
    """Return one description per GPU, and why there are none (None if there are)."""
    with open_nvml() as (nvml, problem):
        if nvml is None:
            return [], problem
        found = [
            describe(read_raw(nvml, nvml.nvmlDeviceGetHandleByIndex(i)))
            for i in range(nvml.nvmlDeviceGetCount())
        ]
    return found, None if found else "NVML: no GPU"


def asker(nvml: Any, *first: Any) -> Callable[..., Any]:
    """Return a function that asks NVML by a function's name; None for what it doesn't answer."""

    def ask(name: str, *rest: Any) -> Any:
        try:
            return getattr(nvml, name)(*first, *rest)
        except (nvml.NVMLError, AttributeError):  # an older driver, an older package
            return None

    return ask


def read_raw(nvml: Any, handle: Any) -> dict[str, Any]:
    """Ask everything; None for what this GPU or driver doesn't answer.

    Returns:
        Plain numbers and text in NVML's units: MHz, mW, mJ, bytes, ns.
    """

    ask = asker(nvml)
    with_handle = asker(nvml, handle)
    memory = with_handle("nvmlDeviceGetMemoryInfo")
    celsius = with_handle("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    if celsius is None:  # its name from CUDA 14 on
        celsius = with_handle("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU)
    power, thermal = (with_handle("nvmlDeviceGetViolationStatus", policy) for policy in (0, 1))
    processes = with_handle("nvmlDeviceGetComputeRunningProcesses")
    return {
        "name": _text(with_handle("nvmlDeviceGetName")),
        "capability": with_handle("nvmlDeviceGetCudaComputeCapability"),
        "driver": _text(ask("nvmlSystemGetDriverVersion")),
        "cuda": ask("nvmlSystemGetCudaDriverVersion"),
        "sm_mhz": with_handle("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "sm_max_mhz": with_handle("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "memory_mhz": with_handle("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "memory_max_mhz": with_handle("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "celsius": celsius,
        "slowdown_celsius": with_handle(
            "nvmlDeviceGetTemperatureThreshold", nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        ),
        "reasons": read_reasons(with_handle),
        "power_mw": with_handle("nvmlDeviceGetPowerUsage"),
        "limit_mw": with_handle("nvmlDeviceGetEnforcedPowerLimit"),
        "energy_mj": with_handle("nvmlDeviceGetTotalEnergyConsumption"),
        "memory_used": getattr(memory, "used", None),
        "memory_total": getattr(memory, "total", None),
        "persistence": with_handle("nvmlDeviceGetPersistenceMode"),
        "power_violation_ns": getattr(power, "violationTime", None),
        "thermal_violation_ns": getattr(thermal, "violationTime", None),
        "pids": None if processes is None else [process.pid for process in processes],
    }


def read_reasons(ask: Callable[..., Any]) -> int | None:
    """Return the bits of the reasons for lower clocks.

    Args:
        ask: `asker` of a GPU.
    """
    bits: int | None = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if bits is None:  # its name before driver 535
        bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    return bits


def describe(raw: dict[str, Any]) -> dict[str, Any]:
    """Turn NVML's numbers into words, watts, joules, MB and seconds; None stays None."""
    capability, cuda, reasons = raw["capability"], raw["cuda"], raw["reasons"]
    others = None if raw["pids"] is None else len(set(raw["pids"]) - {os.getpid()})
    return {
        "name": raw["name"],
        "sm": None if capability is None else f"{capability[0]}.{capability[1]}",
        "driver": raw["driver"],
        "cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        **{key: raw[key] for key in ("sm_mhz", "sm_max_mhz", "memory_mhz", "memory_max_mhz")},
        "celsius": raw["celsius"],
        "slowdown_celsius": raw["slowdown_celsius"],
        "throttle_reasons": None if reasons is None else throttle_words(reasons),
        "harmful_reasons": None if reasons is None else harmful(reasons),
        "watts": _scaled(raw["power_mw"], 1e-3),
        "limit_watts": _scaled(raw["limit_mw"], 1e-3),
        "energy_j": _scaled(raw["energy_mj"], 1e-3),  # since the driver was loaded
        "memory_used_mb": _scaled(raw["memory_used"], 1e-6),
        "memory_mb": _scaled(raw["memory_total"], 1e-6),
        "persistence_mode": None if raw["persistence"] is None else bool(raw["persistence"]),
        "power_throttled_s": _scaled(raw["power_violation_ns"], 1e-9),  # since it was loaded
        "thermal_throttled_s": _scaled(raw["thermal_violation_ns"], 1e-9),
        "other_processes": others,  # that compute on it
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
