"""How much memory this process has taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def peak_host_mb(status: Path = Path("/proc/self/status")) -> float | None:
    """Return the peak resident memory of this process since it began, MB; None: not known."""
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return None
    import resource

    # Not used on Linux: it starts with the parent's peak, which is carried over by exec.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def device_mb() -> float | None:
    """Return the GPU memory that this process holds, MB; None without NVML or without a GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        used = 0
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid == os.getpid():
                    used += process.usedGpuMemory or 0
    except pynvml.NVMLError:
        return None
    return used / 1e6
