"""Which states spoil the numbers: quiet machines are not flagged, loaded and throttled ones are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.bench.machine.disturbances import disturbances
from benchmarks.bench.machine.energy import PowerReading
from benchmarks.bench.machine.nvidia import Gpu
from benchmarks.bench.machine.state import CpuTime, MachineState, capture
from tests.benchmarks.recorded import lay_out, look_at

# One second on 8 cores, of which this process had a half
SPENT = {"busy": 400, "idle": 400, "steal": 0, "own": 400}


def pair(
    name: str, tmp_path: Path, changes: dict[str, str] | None = None
) -> tuple[MachineState, MachineState]:
    """Return two looks at a recorded machine, one second apart; `changes` come between."""
    root = lay_out(name, tmp_path)
    before = look_at(root)
    after = look_at(lay_out(name, root, changes))
    spend(after, **SPENT)
    return before, after


def spend(state: MachineState, **hundredths: int) -> None:
    assert state.ticks is not None
    times = asdict(state.ticks)
    state.ticks = CpuTime(**{key: times[key] + hundredths.get(key, 0) for key in times})


@pytest.mark.parametrize("name", ["laptop", "orin-nano"])
def test_a_quiet_machine_is_not_flagged(name: str, tmp_path: Path) -> None:
    assert disturbances(*pair(name, tmp_path)) == []


def test_a_jetson_in_a_low_mode_with_loose_clocks(tmp_path: Path) -> None:
    assert disturbances(*pair("agx-orin", tmp_path)) == [
        "The power mode was MODE_30W, not MAXN; for the board's best: sudo nvpmodel -m 0.",
        "jetson_clocks was off, so that clocks followed the load and short runs were slow; "
        "fix them with: sudo jetson_clocks.",
    ]


def test_a_throttled_jetson(tmp_path: Path) -> None:
    clock = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_{}_freq"
    changes = {clock.format(i, end): "1190400" for i in range(6) for end in ("max", "cur")}
    changes |= {
        "sys/class/thermal/thermal_zone5/temp": "97500",
        "sys/class/hwmon/hwmon2/oc1_event_cnt": "3",
        "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
        "sys/class/thermal/cooling_device1/cur_state": "1",
        "sys/class/hwmon/hwmon2/name": "soctherm_oc",
    }
    quiet = {"sys/class/hwmon/hwmon2/oc1_event_cnt": "1"}
    root = lay_out("orin-nano", tmp_path, quiet)
    before = look_at(root)
    after = look_at(lay_out("orin-nano", root, changes))
    assert disturbances(before, after) == [
        "The CPU became slower during the run: clock from 1728 to 1190 MHz; cool the machine or "
        "fix its clock, and run again.",
        "tj-thermal reached 97.5 °C, and slows down at 99 °C; cool the machine, or let it rest "
        "between runs.",
        "The module slowed down 2 times for too high a current or too low a voltage; use a "
        "stronger power supply or a lower power mode.",
        "The kernel slowed down cpu because of heat; cool the module, or let it rest between runs.",
    ]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "8"},
            "The CPU slowed itself down 1 time because it was hot; cool it, or let it rest "
            "between runs.",
        ),
        (
            {"sys/class/hwmon/hwmon4/temp1_input": "96000"},
            "Package id 0 reached 96 °C, and slows down at 100 °C; cool the machine, or let it "
            "rest between runs.",
        ),
        (
            {
                f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_max_freq": "1800000"
                for i in range(4)
            },
            "The CPU became slower during the run: highest clock allowed from 4000 to 1800 MHz; "
            "cool the machine or fix its clock, and run again.",
        ),
    ],
    ids=["throttled", "hot", "clock"],
)
def test_a_laptop(changes: dict[str, str], found: str, tmp_path: Path) -> None:
    assert disturbances(*pair("laptop", tmp_path, changes)) == [found]


def test_a_battery_and_swapping(tmp_path: Path) -> None:
    before, after = pair("laptop", tmp_path)
    after.battery = "Plugged in"
    assert disturbances(before, after) == []
    after.battery = "Discharging"
    assert disturbances(before, after) == [
        "The machine ran on its battery, which lowers clocks; plug it in and run again."
    ]
    after.battery = None
    after.memory = replace(after.memory, swapped_pages=5560)
    assert disturbances(before, after) == [
        "The machine swapped memory during the run (10 MB); close other programs, or measure "
        "smaller batches."
    ]


def test_what_the_first_look_shows(tmp_path: Path) -> None:
    before, after = pair("laptop", tmp_path)
    before.load_average = [2.5, 1.0, 0.5]
    before.cpu.quota_cores = 1.5
    for core in before.cpu.cores:
        core.mhz = core.min_mhz  # powersave means it, unlike under intel_pstate
    assert disturbances(before, after) == [
        "The machine was busy before the run: load 2.50 on 4 cores; stop other programs, wait a "
        "minute, and run again.",
        "The container may use 1.5 of 4 cores (cgroup quota), so more threads than that are "
        "stopped for a part of each period; raise the quota, or set --threads 1.",
        "The CPU governor is powersave, which holds the clock at its lowest; set another with: "
        "sudo cpupower frequency-set -g performance.",
    ]


def test_steal_and_a_slower_loop_in_a_virtual_machine(tmp_path: Path) -> None:
    before, after = pair("laptop", tmp_path)
    spend(after, steal=40)
    before.cpu.speed, after.cpu.speed = 80.0, 60.0
    assert disturbances(before, after) == [
        "The host gave 4.8% of this virtual machine's CPU time to other guests (steal); run again "
        "at a quieter hour, or on a machine of your own.",
        "The CPU became slower during the run: a plain loop from 80 to 60 million turns/s; cool "
        "the machine or fix its clock, and run again.",
    ]


GPU = Gpu(
    name="NVIDIA H100 80GB HBM3",
    celsius=61,
    slowdown_celsius=89,
    harmful_reasons=[],
    thermal_throttled_s=1.5,
    other_processes=0,
    sm="9.0",
    driver=None,
    cuda=None,
    sm_mhz=None,
    sm_max_mhz=None,
    memory_mhz=None,
    memory_max_mhz=None,
    throttle_reasons=None,
    watts=None,
    limit_watts=None,
    energy_j=None,
    memory_used_mb=None,
    memory_mb=None,
    persistence_mode=None,
    power_throttled_s=None,
)


def reading(**harmful: float) -> PowerReading:
    return PowerReading("GPU 0", 1.0, 400.0, 400.0, None, {"power limit": 1.0}, harmful, None)


def test_a_gpu(tmp_path: Path) -> None:
    before, after = pair("laptop", tmp_path)
    before.gpus, after.gpus = [GPU], [GPU]
    assert disturbances(before, after, [reading()]) == []

    hot = replace(after, gpus=[replace(GPU, celsius=86, thermal_throttled_s=2.0)])
    assert disturbances(before, hot) == [
        "NVIDIA H100 80GB HBM3 reached 86 °C, and slows down at 89 °C; cool the machine, or let "
        "it rest between runs.",
        "NVIDIA H100 80GB HBM3 slowed down for 0.5 s because it was hot; cool it, or let it rest "
        "between runs.",
    ]
    braked = reading(**{"power brake of the machine": 0.25})
    assert disturbances(before, after, [reading(), braked]) == [
        "The GPU ran slower because of: power brake of the machine (25% of a measurement); cool it "
        "and check its power supply, then run again.",
    ]
    after.gpus = [replace(GPU, harmful_reasons=["hardware slowdown"])]
    before.gpus = [replace(GPU, other_processes=2)]
    assert disturbances(before, after) == [
        "NVIDIA H100 80GB HBM3 ran slower right after the measurement because of: hardware "
        "slowdown; cool it and check its power supply, then run again.",
        "2 other processes computed on NVIDIA H100 80GB HBM3 before the run; stop them "
        "(nvidia-smi shows them) and run again.",
    ]


@pytest.fixture
def stranger() -> Iterator[None]:
    """Keep as many processes busy as there are cores, which are not children of this one."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("needs /proc")
    count = len(os.sched_getaffinity(0))
    loop = (
        "import os, time\n"
        "if os.fork(): os._exit(0)\n"  # orphans belong to the system's first process
        f"for _ in range({count} - 1):\n    if not os.fork(): break\n"
        "os.write(1, b'%d\\n' % os.getpid())\n"  # at once: print may write number and end apart
        "end = time.monotonic() + 60\n"
        "while time.monotonic() < end: pass\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pids = [int(starter.stdout.readline()) for _ in range(count)]
    yield
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    starter.stdout.close()
    starter.wait()


@pytest.mark.usefixtures("stranger")
def test_a_really_busy_machine_is_flagged() -> None:
    before = capture(window_s=0.1)
    time.sleep(1)
    found = disturbances(before, capture(window_s=0.1))
    assert any(text.startswith("Other processes took ") for text in found), found


def test_own_work_is_not_others(tmp_path: Path) -> None:
    before, after = pair("laptop", tmp_path)
    spend(after, busy=60)  # of 860 ticks others had 60
    assert disturbances(before, after) == []
    spend(after, busy=60)
    assert disturbances(before, after) == [
        "Other processes took 13% of the CPU time during the run; stop them and run again."
    ]
