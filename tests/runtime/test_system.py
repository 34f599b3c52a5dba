"""Facts about a machine, read from its files: those of x86, a Jetson and others."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest

from numclip_runtime.system import (
    Jetson,
    cpu_flags,
    cpu_name,
    may_have_sme,
    read_jetson,
    read_machine,
)

X86 = "model name\t: Intel(R) Xeon(R)  8481C\nflags\t\t: fpu amx_int8 avx2 avx512_vnni\n"
ARM = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimdhp asimddp\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
)
CONF = """# nvpmodel
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=30W >
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_x86(tmp_path: Path) -> None:
    meminfo = "MemTotal:       32000000 kB\nMemFree: 1 kB\nMemAvailable:   16000000 kB\n"
    limit = str(8 * 2**30)
    files = {"proc/cpuinfo": X86, "proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": limit}
    machine = read_machine(write(tmp_path, files))
    assert machine.cpu == "Intel(R) Xeon(R)  8481C"
    assert machine.cpu_flags == ("avx2", "avx512_vnni", "amx_int8")
    assert (machine.memory_gib, machine.memory_available_gib) == (8, 8)
    assert machine.jetson is None


def test_jetson(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": ARM,
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 3896, BOARD: generic\n",
            "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
            "etc/nvpmodel.conf": CONF,
        },
    )
    machine = read_machine(root)
    assert machine.jetson == Jetson("NVIDIA Jetson AGX Orin Developer Kit", "36.4.3", "30W")
    assert machine.cpu == "Cortex-A78AE"
    assert machine.cpu_flags == ("asimd", "asimdhp", "asimddp")
    (root / "etc/nvpmodel.conf").unlink()
    assert read_jetson(root) == dataclasses.replace(machine.jetson, power_mode="mode 2")


def test_another_board_is_no_jetson(tmp_path: Path) -> None:
    assert read_jetson(write(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5\0"})) is None


def test_a_machine_without_these_files(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.memory_gib is None
    assert machine.cpu_flags == cpu_flags(tmp_path) == ()
    assert machine.cpu


def test_cpu_name(tmp_path: Path) -> None:
    write(tmp_path, {"proc/device-tree/model": "Banana Pi\0"})
    assert cpu_name(tmp_path) == "Banana Pi"
    write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\n"})
    assert cpu_name(tmp_path) == "Banana Pi"
    write(tmp_path, {"proc/cpuinfo": "CPU part\t: 0xd0b\nCPU part\t: 0xfff\n"})
    assert cpu_name(tmp_path) == "Cortex-A76, ARM part 0xfff"
    write(tmp_path, {"proc/cpuinfo": "model name\t: Fast: CPU 9000\nprocessor\t: 1\n"})
    assert cpu_name(tmp_path) == "Fast: CPU 9000"


@pytest.mark.parametrize(
    ("machine", "auxv", "expected"),
    [
        ("aarch64", {16: 0xFFFF, 26: 0x4FFFFF}, False),  # all of HWCAP2 below SME's bit but one
        ("aarch64", {16: 0xFFFF, 26: 0x800000}, True),
        ("aarch64", {16: 0x800000}, True),  # not known: the kernel has no HWCAP2
        ("arm64", None, True),  # not known: macOS
        ("x86_64", {26: 0x800000}, False),
    ],
)
def test_sme(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    auxv: dict[int, int] | None,
    expected: bool,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    if auxv is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        pairs = b"".join(struct.pack("@LL", *pair) for pair in [*auxv.items(), (0, 0)])
        (tmp_path / "proc/self/auxv").write_bytes(pairs)
    assert may_have_sme(tmp_path) is expected
