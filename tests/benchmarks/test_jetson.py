"""Readers for Jetsons, on files recorded on boards; see "source" in tests/data/machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench.machine.jetson import (
    Board,
    BoardGpu,
    PowerMode,
    best_mode,
    clocks_locked,
    read_board,
    read_rails,
    total_watts,
)
from tests.benchmarks.recorded import lay_out


def test_agx_orin(tmp_path: Path) -> None:
    state = read_board(lay_out("agx-orin", tmp_path))
    assert state == Board(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        l4t="36.4.3",
        power_mode="MODE_30W",
        best_mode=PowerMode(0, "MAXN"),
        jetson_clocks=False,
        gpu=BoardGpu("nvhost_podgov", mhz=306, min_mhz=306, max_mhz=612),
        rails_watts={
            "VDD_GPU_SOC": 2.631,
            "VDD_CPU_CV": 0.376,
            "VIN_SYS_5V0": 4.735,
            "VDDQ_VDD2_1V8AO": 1.088,
        },
        total_watts=7.742,  # 2.631 + 0.376 + 4.735: the memory's is in the 5 V rail
        overcurrent_events=0,
        throttling=[],
    )


def test_orin_nano_has_one_rail_for_all(tmp_path: Path) -> None:
    root = lay_out("orin-nano", tmp_path)
    state = read_board(root)
    assert state is not None
    assert state.best_mode == PowerMode(2, "MAXN_SUPER")
    assert state.power_mode == "MAXN_SUPER"
    assert state.jetson_clocks is True
    assert state.rails_watts == {"VDD_IN": 4.785, "VDD_CPU_GPU_CV": 0.597, "VDD_SOC": 1.513}
    assert state.total_watts == 4.785


def test_nano_of_jetpack_4(tmp_path: Path) -> None:
    state = read_board(lay_out("nano", tmp_path))
    assert state is not None
    assert state.rails_watts == {"POM_5V_IN": 2.16, "POM_5V_GPU": 0.041, "POM_5V_CPU": 0.452}
    assert state.total_watts == 2.16
    assert state.gpu is not None
    assert state.gpu.max_mhz == 922
    assert state.jetson_clocks is False
    assert state.overcurrent_events is None


def test_thor_has_another_chip(tmp_path: Path) -> None:
    # INA238: power in µW; it measures the input of the whole board
    root = lay_out(
        "agx-orin",
        tmp_path,
        {
            "sys/class/hwmon/hwmon9/name": "ina238\n",
            "sys/class/hwmon/hwmon9/in1_label": "VIN\n",
            "sys/class/hwmon/hwmon9/power1_input": "31250000\n",
        },
    )
    assert total_watts(read_rails(root)) == 31.25


def test_clocks_of_sleeping_cores_do_not_count(tmp_path: Path) -> None:
    low = "sys/devices/system/cpu/cpu5/cpufreq/scaling_min_freq"
    root = lay_out("orin-nano", tmp_path, {low: "729600"})
    assert clocks_locked(root) is False
    (root / "sys/devices/system/cpu/cpu5/online").write_text("0")
    assert clocks_locked(root) is True


@pytest.mark.parametrize(
    ("modes", "best"),
    [
        ([(0, "15W"), (1, "7W")], PowerMode(0, "15W")),
        ([(0, "MODE_15W_2CORE"), (8, "MODE_20W_6CORE")], PowerMode(8, "MODE_20W_6CORE")),
        ([(0, "15W"), (1, "MAXN"), (2, "MAXN_SUPER")], PowerMode(2, "MAXN_SUPER")),
        ([(0, "MAXN_SUPER"), (1, "MAXN")], PowerMode(0, "MAXN_SUPER")),
        ([(0, "MAX_Q")], None),
    ],
)
def test_best_mode(modes: list[tuple[int, str]], best: PowerMode | None, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    lines = [f"< POWER_MODEL ID={number} NAME={name} >" for number, name in modes]
    (tmp_path / "etc/nvpmodel.conf").write_text("\n".join(lines))
    assert best_mode(tmp_path) == best


def test_other_machines_are_none(tmp_path: Path) -> None:
    assert read_board(lay_out("laptop", tmp_path)) is None
