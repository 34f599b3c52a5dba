"""Facts about the machine this process runs on: cores, processor, memory, Jetson module.

They are read from the system's files. The argument of every function is the folder used as `/`, so
that a recorded machine can be read too. Unknown facts are None or empty.
"""

from __future__ import annotations

import math
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from numclip_runtime.posix import affinity

ROOT = Path("/")
AT_HWCAP2, HWCAP2_SME = 26, 1 << 23
_PAIR = struct.calcsize("@LL")
# CPU features that decide how fast INT8, FP16 and FP32 networks run, in the kernel's spelling
X86 = "avx2 fma avx512f avx_vnni avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16"
ARM64 = "asimd asimdhp asimddp i8mm bf16 sve"
CPU_FLAGS = (*X86.split(), *ARM64.split())
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
class CpuQuota:
    """A container's share of the machine's cores."""

    cores: float
    stops: int | None  # number of times the kernel paused the group so far; None: unknown


@dataclass(frozen=True)
class Jetson:
    """An NVIDIA Jetson module."""

    model: str  # "NVIDIA Jetson AGX Orin Developer Kit"
    l4t: str | None  # Linux for Tegra, "36.4.3"; JetPack 6 has 36, JetPack 7 has 38
    power_mode: str | None  # of nvpmodel, "MAXN" or "30W": it limits the clocks


@dataclass(frozen=True)
class Machine:
    """The facts without which a report could not be understood later."""

    python: str
    system: str  # "Linux-6.8.0-x86_64-with-glibc2.39"
    cpu: str
    cores: int  # usable by this process
    cpu_flags: tuple[str, ...]  # those of CPU_FLAGS that the CPU has; empty: not known
    memory_gib: float | None  # total, or the container's limit
    memory_available_gib: float | None
    jetson: Jetson | None


def cache_folder() -> Path:
    """Return the folder where this user's programs keep files that they can fetch or make again."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        base = Path(given)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path.home() / (".cache" if sys.platform != "darwin" else "Library/Caches")
    return base / "numclip"


def read_machine(root: Path = ROOT) -> Machine:
    """Return the facts about the machine whose files are in `root`."""
    import platform  # 2 ms of every start, and only reports need it

    total, available = memory_gib(root)
    return Machine(
        python=f"{platform.python_version()} ({sys.executable})",
        system=platform.platform(),
        cpu=cpu_name(root),
        cores=usable_cores(root),
        cpu_flags=cpu_flags(root),
        memory_gib=total,
        memory_available_gib=available,
        jetson=read_jetson(root),
    )


def usable_cores(root: Path = ROOT) -> int:
    """Count the cores within the affinity mask and the container's CPU quota, at least 1.

    `os.cpu_count()` counts the machine's: 64 in a container of 2 CPUs on a server of 64, and 64
    threads that share 2 CPUs are slower than 2. A part of a core counts as one.
    """
    cores = len(core_numbers(root))
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota.cores)))


def threads_of_a_run(root: Path = ROOT) -> int | None:
    """Return how many threads one inference by itself should have.

    Two hyper-threads of a core share its multipliers, so they count as one: what onnxruntime and
    OpenVINO do for a whole machine.

    Returns:
        None where all cores of the machine may be used: libraries then count them by themselves.
    """
    usable = usable_cores(root)
    if usable == os.cpu_count():
        return None
    siblings = {
        _text(root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") or number
        for number in core_numbers(root)
    }
    return min(usable, len(siblings))


def core_numbers(root: Path = ROOT) -> list[int]:
    """Return the numbers of the cores in this process's affinity mask; all where there is none."""
    if root == ROOT and (cores := affinity()) is not None:
        return cores
    found = re.findall(r"^cpu(\d+) ", _text(root / "proc/stat"), re.MULTILINE)
    return [int(number) for number in found] or list(range(os.cpu_count() or 1))


def cpu_quota(root: Path = ROOT) -> CpuQuota | None:
    """Return the tightest CPU quota of the process's control group and of the groups around it."""
    tightest: CpuQuota | None = None
    for folder in _control_groups(root):
        cores = _quota_of(folder)
        if cores is not None and (tightest is None or cores < tightest.cores):
            stops = re.search(r"^nr_throttled (\d+)$", _text(folder / "cpu.stat"), re.MULTILINE)
            tightest = CpuQuota(cores, None if stops is None else int(stops[1]))
    return tightest


def cpu_name(root: Path = ROOT) -> str:
    """Return the processor's name: the model on x86, the kind of cores on ARM, else the board."""
    cpuinfo = _text(root / "proc/cpuinfo")
    if match := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return match[1].strip()
    if parts := re.findall(r"^CPU part\s*:\s*(\w+)$", cpuinfo, re.MULTILINE):
        return ", ".join(ARM_PARTS.get(part, f"ARM part {part}") for part in sorted(set(parts)))
    if board := _board(root):
        return board
    import platform

    if sys.platform == "darwin":
        import subprocess

        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def cpu_flags(root: Path = ROOT) -> tuple[str, ...]:
    """Return those of CPU_FLAGS that the processor has."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    present = set(match[1].split()) if match else set()
    return tuple(flag for flag in CPU_FLAGS if flag in present)


def has_bf16(root: Path = ROOT) -> bool:
    """Return whether the processor is known to multiply in bfloat16 (x86: AVX512_BF16 or AMX)."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_flags(root))


def may_have_sme(root: Path = ROOT) -> bool:
    """Return whether the processor is an ARM one that has SME, or is not known to have none.

    The kernel tells each process its processor's capabilities (getauxval(3)): /proc/cpuinfo would
    be the host's under an emulator of programs.

    Source:
        AT_HWCAP2 of Linux' include/uapi/linux/auxvec.h, HWCAP2_SME of its arch/arm64/include/uapi/
        asm/hwcap.h.
    """
    import platform

    if platform.machine().lower() not in ("aarch64", "arm64"):
        return False
    try:
        content = (root / "proc/self/auxv").read_bytes()
    except OSError:  # macOS, Windows
        return True
    pairs = dict(struct.iter_unpack("@LL", content[: len(content) // _PAIR * _PAIR]))
    return bool(pairs.get(AT_HWCAP2, HWCAP2_SME) & HWCAP2_SME)


def memory_gib(root: Path = ROOT) -> tuple[float | None, float | None]:
    """Return total and available memory in GiB; a container's limit counts as the total."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    total, available = (
        int(found[key]) / 2**20 if key in found else None for key in ("MemTotal", "MemAvailable")
    )
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()  # of a container; "max": none
    if total is not None and limit.isdecimal():
        total = min(total, int(limit) / 2**30)
        available = None if available is None else min(available, total)
    return total, available


def read_jetson(root: Path = ROOT) -> Jetson | None:
    """Return the Jetson's model, L4T release and power mode; None elsewhere."""
    model = _board(root)
    release = re.search(r"R(\d+).*?REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    if "Jetson" not in model and release is None:
        return None
    number = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    mode = None
    if number is not None:
        mode = power_modes(root).get(int(number[1]), f"mode {int(number[1])}")
    return Jetson(
        model or "NVIDIA Jetson", None if release is None else f"{release[1]}.{release[2]}", mode
    )


def power_modes(root: Path = ROOT) -> dict[int, str]:
    """Return the names of a Jetson's power modes by their numbers, as nvpmodel defines them."""
    pattern = r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>"
    found = re.findall(pattern, _text(root / "etc/nvpmodel.conf"), re.MULTILINE)
    return {int(number): name for number, name in found}


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the process's control group and of its parents, version 2 and 1."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2: one tree
            bases = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):  # version 1: a tree for each set of controllers
            bases = [mount / name for name in {controllers, "cpu"}]
        else:
            continue
        inside = PurePosixPath(group.lstrip("/"))
        # In a container the group may have the host's name, and not exist here: its limits are then
        # those of the root.
        for base in bases:
            for folder in (inside, *inside.parents):
                yield base / folder


def _quota_of(folder: Path) -> float | None:
    """Return a control group's quota in cores; None: it has no limit, or does not exist."""
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")  # version 2
    if not quota:
        quota, period = (
            _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None  # "max" or -1: no limit
    return int(quota) / int(period)


def _board(root: Path) -> str:
    for name in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        if text := _text(root / name).strip("\0\n "):
            return text
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
