"""The processor's state: counted time, quota of a container, clocks, temperatures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.bench.machine.cpu import (
    Core,
    Sensor,
    read_clocks,
    read_cpu,
    read_temperatures,
    spin,
)
from benchmarks.bench.machine.state import (
    BusyProcess,
    CpuShare,
    CpuTime,
    busiest,
    capture,
    read_cpu_time,
)
from numclip_runtime.system import CpuQuota, core_numbers, cpu_quota
from tests.benchmarks.recorded import lay_out


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_share_of_others_and_of_the_host() -> None:
    before = CpuTime(busy=1000, idle=5000, steal=10, own=200)
    found = CpuTime(busy=1150, idle=5030, steal=30, own=250).since(before)
    assert found == CpuShare(others=0.5, steal=0.1)  # 150 busy, 50 of them ours, of 200
    assert before.since(before) is None


def test_time_of_the_usable_cores_only() -> None:
    psutil = pytest.importorskip("psutil")
    before = read_cpu_time([0])
    assert before.busy > 0
    assert before.idle > 0
    if psutil.cpu_count() > 1:
        assert read_cpu_time([0, 1]).idle > before.idle


def test_own_time_has_the_children_in_it() -> None:
    before = read_cpu_time([0]).own
    loop = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", loop], check=True)
    assert read_cpu_time([0]).own - before >= 40  # 1/100 s


def test_busiest_others_by_name() -> None:
    before = {90: ("idle", 7.0), 91: ("a", 7.0), 92: ("a", 7.0)}
    after = {90: ("idle", 7.0), 91: ("a", 8.0), 92: ("a", 8.0), 93: ("just started", 9.0)}
    assert busiest(before, after, seconds=2) == [BusyProcess("a", 1.0)]


QUOTA_2 = {
    "proc/self/cgroup": "0::/app/worker\n",
    "sys/fs/cgroup/app/worker/cpu.max": "max 100000\n",
    "sys/fs/cgroup/app/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/app/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 12\n",
}
QUOTA_1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",  # the mount is the container's group
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_periods 4\nnr_throttled 3\nthrottled_time 5\n",
}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (QUOTA_2, CpuQuota(1.5, 12)),
        (QUOTA_1, CpuQuota(0.5, 3)),
        (QUOTA_1 | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1"}, None),
        ({}, None),
    ],
    ids=["version 2, a parent's", "version 1", "no limit", "no cgroup"],
)
def test_quota(files: dict[str, str], quota: CpuQuota | None, tmp_path: Path) -> None:
    assert cpu_quota(write(tmp_path, files)) == quota


def test_clocks_of_a_laptop(tmp_path: Path) -> None:
    root = lay_out("laptop", tmp_path)
    assert core_numbers(root) == [0, 1, 2, 3]
    assert read_clocks(root, [2]) == [
        Core(2, "powersave", mhz=3693, min_mhz=400, max_mhz=4000, hardware_mhz=4000)
    ]


def test_clocks_of_a_virtual_machine(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\ncpu MHz\t\t: 2100.4\n\nprocessor\t: 1\ncpu MHz\t\t: 2999.6\n"
    clocks = read_clocks(write(tmp_path, {"proc/cpuinfo": cpuinfo}), [0, 1])
    assert [core.mhz for core in clocks] == [2100, 3000]
    assert clocks[0].governor is None


def test_temperatures_and_what_they_may_reach(tmp_path: Path) -> None:
    laptop = read_temperatures(lay_out("laptop", tmp_path / "laptop"))
    assert [(s.name, s.celsius, s.limit_celsius) for s in laptop] == [
        ("acpitz", 52.0, 119.0),  # the empty passive trip and the fan's are left out
        ("x86_pkg_temp", 61.0, None),
        ("Package id 0", 61.0, 100.0),
    ]
    orin = read_temperatures(lay_out("agx-orin", tmp_path / "orin"))
    assert [sensor.name for sensor in orin] == [
        "cpu-thermal",
        "gpu-thermal",
        "soc0-thermal",
        "tj-thermal",
    ]  # cv0 and cv1 sleep
    assert orin[-1] == Sensor("tj-thermal", 48.4, 99.0)


def test_spin_measures_cpu_time_not_waiting() -> None:
    start = time.process_time()
    speed = spin(0.1)
    assert speed is not None
    assert speed > 0.5  # million turns/s: an interpreter of any board
    assert time.process_time() - start > 0.02


def test_cpu_of_a_whole_machine(tmp_path: Path) -> None:
    cpu = read_cpu(lay_out("laptop", tmp_path), [0, 1, 2, 3])
    assert cpu.model == "Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"
    assert cpu.turbo is True
    assert cpu.thermal_throttles == 28
    assert cpu.quota_cores is None


def test_capture_where_there_are_no_files(tmp_path: Path) -> None:
    state = capture(tmp_path, window_s=0)
    assert state.temperatures == []
    assert state.jetson is None
    assert state.others is None
    assert {core.governor for core in state.cpu.cores} == {None}


def test_battery_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    for plugged, text in ((False, "Discharging"), (True, "Plugged in")):
        battery = SimpleNamespace(percent=50, power_plugged=plugged)
        monkeypatch.setattr(psutil, "sensors_battery", lambda b=battery: b)
        assert capture(tmp_path, window_s=0).battery == text
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
    swap = SimpleNamespace(sin=4096 * 1000, sout=4096 * 2000)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    state = capture(tmp_path, window_s=0)
    assert state.battery is None
    assert state.memory.swapped_pages == 3000
    assert state.memory.total_mb is not None
    assert state.memory.available_mb is not None
    assert 0 < state.memory.available_mb <= state.memory.total_mb


def test_capture_of_this_machine() -> None:
    state = capture(window_s=0.05)
    assert state.cpu.usable_cores >= 1
    assert state.cpu.speed is not None
    assert state.cpu.speed > 0
    json.dumps(asdict(state))
