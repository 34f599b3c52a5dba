"""The processor's state: counted time, quota of a container, clocks, temperatures."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.state import capture
from benchmarks.state.cpu import read_clocks, read_temperatures, spin
from benchmarks.state.ticks import Process, Ticks, busiest, read_processes, read_ticks, share
from numclip_runtime.system import CpuQuota, core_numbers, cpu_quota
from tests.benchmarks.recorded import lay_out


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_time_of_the_usable_cores_only(tmp_path: Path) -> None:
    stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 1 5 100 4 2 3 7 8 0\ncpu1 50 0 0 60 0 0 0 0 0 0\n"
    root = write(tmp_path, {"proc/stat": stat})
    assert read_ticks(root, [0]) == Ticks(busy=21, idle=104, steal=7, own=0)
    assert read_ticks(root, [0, 1]) == Ticks(busy=71, idle=164, steal=7, own=0)
    assert read_ticks(tmp_path / "nothing", [0]) is None


def test_old_kernels_count_no_steal(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/stat": "cpu0 10 1 5 100\n"})
    assert read_ticks(root, [0]) == Ticks(busy=16, idle=100, steal=0, own=0)


def test_share_of_others_and_of_the_host() -> None:
    before = {"busy": 1000, "idle": 5000, "steal": 10, "own": 200}
    after = {"busy": 1150, "idle": 5030, "steal": 30, "own": 250}
    found = share(before, after)
    assert found is not None
    assert found.others == pytest.approx(0.5)  # 150 busy, 50 of them ours, of 200
    assert found.steal == pytest.approx(0.1)
    assert share(before, before) is None


def stat_line(pid: int, name: str, parent: int, ticks: int) -> str:
    return f"{pid} ({name}) R {parent} 1 1 0 -1 4194304 1 0 0 0 {ticks} 0 5 0 20 0 1 0 77"


def test_own_time_has_the_children_in_it(tmp_path: Path) -> None:
    me, child, grandchild = os.getpid(), 4_000_001, 4_000_002
    lines = [
        (me, "python3", 1, 30),
        (child, "worker) 3 (x", me, 20),  # names can hold brackets and spaces
        (grandchild, "loader", child, 10),
        (4_000_003, "other", 1, 500),
    ]
    files = {f"proc/{line[0]}/stat": stat_line(*line) for line in lines}
    root = write(tmp_path, files | {"proc/stat": "cpu0 600 0 0 100\n", "proc/mounts": ""})
    ticks = read_ticks(root, [0])
    assert ticks is not None
    assert ticks.own == 30 + 20 + 10 + 3 * 5
    assert read_processes(root)[child].name == "worker) 3 (x"


def test_busiest_others_by_name() -> None:
    me, second = os.getpid(), os.sysconf("SC_CLK_TCK")
    before = {me: Process("me", 1, 0, 0)}
    before |= {pid: Process(name, 1, 7, 0) for pid, name in ((90, "idle"), (91, "a"), (92, "a"))}
    after = {me: Process("me", 1, 5 * second, 0), 90: before[90]}
    after |= {pid: Process("a", 1, 7 + second, 0) for pid in (91, 92)}
    after |= {93: Process("just started", 1, 900, 0)}
    assert busiest(before, after, seconds=2) == [{"name": "a", "cores": 1.0}]


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
        {
            "core": 2,
            "governor": "powersave",
            "mhz": 3693,
            "min_mhz": 400,
            "max_mhz": 4000,
            "hardware_mhz": 4000,
        }
    ]


def test_clocks_of_a_virtual_machine(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\ncpu MHz\t\t: 2100.4\n\nprocessor\t: 1\ncpu MHz\t\t: 2999.6\n"
    clocks = read_clocks(write(tmp_path, {"proc/cpuinfo": cpuinfo}), [0, 1])
    assert [core["mhz"] for core in clocks] == [2100, 3000]
    assert clocks[0]["governor"] is None


def test_temperatures_and_what_they_may_reach(tmp_path: Path) -> None:
    laptop = read_temperatures(lay_out("laptop", tmp_path / "laptop"))
    assert [(s["name"], s["celsius"], s["limit_celsius"]) for s in laptop] == [
        ("acpitz", 52.0, 119.0),  # the empty passive trip and the fan's are left out
        ("x86_pkg_temp", 61.0, None),
        ("Package id 0", 61.0, 100.0),
    ]
    orin = read_temperatures(lay_out("agx-orin", tmp_path / "orin"))
    assert [sensor["name"] for sensor in orin] == [
        "cpu-thermal",
        "gpu-thermal",
        "soc0-thermal",
        "tj-thermal",
    ]  # cv0 and cv1 sleep
    assert orin[-1] == {"name": "tj-thermal", "celsius": 48.4, "limit_celsius": 99.0}


def test_spin_measures_cpu_time_not_waiting() -> None:
    start = time.process_time()
    speed = spin(0.1)
    assert speed is not None
    assert speed > 0.5  # million turns/s: an interpreter of any board
    assert time.process_time() - start > 0.02


def test_capture_of_a_whole_machine(tmp_path: Path) -> None:
    state = capture(lay_out("laptop", tmp_path), window_s=0)
    assert state["cpu"]["model"] == "Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"
    assert state["cpu"]["turbo"] is True
    assert state["cpu"]["thermal_throttles"] == 28
    assert state["cpu"]["quota_cores"] is None
    assert state["load_average"] == [0.31, 0.40, 0.38]
    assert state["memory"] == {"total_mb": 15878, "available_mb": 9570, "swapped_pages": 3000}
    assert state["battery"] == "Full"  # not the mouse's
    assert state["jetson"] is None


def test_a_mouse_is_no_battery_of_the_machine(tmp_path: Path) -> None:
    root = lay_out("laptop", tmp_path, {"sys/class/power_supply/BAT0/type": "UPS"})
    assert capture(root, window_s=0)["battery"] is None


def test_capture_where_there_is_nothing(tmp_path: Path) -> None:
    state = capture(tmp_path, window_s=0)
    assert state["ticks"] is None
    assert state["load_average"] is None
    assert state["temperatures"] == []


def test_capture_of_this_machine() -> None:
    state = capture(window_s=0.05)
    assert state["cpu"]["usable_cores"] >= 1
    assert state["cpu"]["speed"] > 0
