"""Facts about the machine, read from the system's files."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# CPU features that decide how fast INT8, FP16 and FP32 networks run, in the kernel's spelling
X86 = "avx2 fma avx512f avx_vnni avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16"
ARM64 = "asimd asimdhp asimddp i8mm bf16 sve"
FLAGS = (*X86.split(), *ARM64.split())
# Parts of arm64 CPUs, which have no name in /proc/cpuinfo: those of Jetsons and common boards
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd4f": "Neoverse-V2",
    "0xd83": "Neoverse-V3AE",
}


@dataclass(frozen=True)
class Jetson:
    """An NVIDIA Jetson module."""

    model: str  # "NVIDIA Jetson AGX Orin Developer Kit"
    l4t: str | None  # Linux for Tegra, "36.4.3"; JetPack 6 has 36, JetPack 7 has 38
    power_mode: str | None  # of nvpmodel, "MAXN" or "30W": it limits the clocks


@dataclass(frozen=True)
class Machine:
    """What `numclip-run doctor` says of a machine."""

    python: str
    system: str  # "Linux-6.8.0-x86_64-with-glibc2.39"
    cpu: str
    cores: int  # that this process may use
    cpu_flags: tuple[str, ...]  # those of FLAGS that it has; empty where they are not known
    memory_gib: float | None  # in all, or as a container is limited to
    memory_available_gib: float | None
    jetson: Jetson | None


def read_machine(root: Path = Path("/")) -> Machine:
    """Read the facts; what cannot be read is None or empty.

    Args:
        root: Folder that holds `proc`, `sys`, `etc` and `var`.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    total, available = _memory(root)
    return Machine(
        python=f"{platform.python_version()} ({sys.executable})",
        system=platform.platform(),
        cpu=_cpu_name(cpuinfo),
        cores=_cores(),
        cpu_flags=cpu_flags(cpuinfo),
        memory_gib=total,
        memory_available_gib=available,
        jetson=read_jetson(root),
    )


def cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    """Return those of FLAGS that /proc/cpuinfo lists."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    present = set(match[1].split()) if match else set()
    return tuple(flag for flag in FLAGS if flag in present)


def read_jetson(root: Path) -> Jetson | None:
    """Return the Jetson's model, L4T release and power mode; None elsewhere."""
    model = _text(root / "proc/device-tree/model").rstrip("\0\n")
    release = re.search(r"R(\d+).*?REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    if "Jetson" not in model and release is None:
        return None
    number = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    mode = None
    if number is not None:
        names = re.findall(
            r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>",
            _text(root / "etc/nvpmodel.conf"),
            re.MULTILINE,
        )
        mode = {int(i): name for i, name in names}.get(int(number[1]), f"mode {int(number[1])}")
    return Jetson(
        model or "NVIDIA Jetson", None if release is None else f"{release[1]}.{release[2]}", mode
    )


def _cpu_name(cpuinfo: str) -> str:
    if match := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return match[1].strip()
    if parts := re.findall(r"^CPU part\s*:\s*(\w+)$", cpuinfo, re.MULTILINE):
        return ", ".join(ARM_PARTS.get(part, f"ARM part {part}") for part in sorted(set(parts)))
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(root: Path) -> tuple[float | None, float | None]:
    """Return total and available memory in GiB."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    total, available = (
        int(found[key]) / 2**20 if key in found else None for key in ("MemTotal", "MemAvailable")
    )
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()  # of a container; "max": none
    if total is not None and limit.isdecimal():
        total = min(total, int(limit) / 2**30)
        available = None if available is None else min(available, total)
    return total, available


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
