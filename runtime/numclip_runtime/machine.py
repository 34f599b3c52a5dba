"""What a machine is called, for reports: a time without its machine says nothing."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_model(
    cpuinfo: Path = Path("/proc/cpuinfo"), board: Path = Path("/proc/device-tree/model")
) -> str:
    """Name the processor: from `cpuinfo`, else the `board` (ARM), else what Python knows."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if board.exists():
        return board.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return platform.processor() or platform.machine()
