"""Energy of a measurement, on recorded files that change while it runs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.bench.machine.energy import PowerSampler, package_meter, sum_power
from tests.benchmarks.recorded import lay_out

RAIL = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/"
COUNTER = "sys/class/powercap/intel-rapl:0/energy_uj"


def test_steady_rail_of_a_jetson(tmp_path: Path) -> None:
    root = lay_out("orin-nano", tmp_path)
    with PowerSampler("gpu", root=root, interval_s=0.02) as power:
        time.sleep(0.2)
    assert power.reading.source == "module: VDD_IN, VDD_CPU_GPU_CV, VDD_SOC"
    assert power.reading.problem is None
    assert power.reading.mean_watts == pytest.approx(4.785)
    assert power.reading.joules == pytest.approx(4.785 * power.reading.seconds)
    assert power.reading.seconds >= 0.2


def test_power_that_rises_is_integrated(tmp_path: Path) -> None:
    root = lay_out(
        "orin-nano", tmp_path, {RAIL + "in1_input": "5000", RAIL + "curr1_input": "1000"}
    )
    with PowerSampler("cpu", root=root, interval_s=0.01) as power:
        time.sleep(0.3)
        (root / RAIL / "curr1_input").write_text("3000")
        time.sleep(0.3)
    assert power.reading.mean_watts == pytest.approx(10, rel=0.2)  # 5 W, then 15 W


def test_a_sleeping_sensor_leaves_a_gap(tmp_path: Path) -> None:
    root = lay_out("orin-nano", tmp_path)
    current = root / RAIL / "curr1_input"
    text = current.read_text()
    for channel in (2, 3):  # without the input rail, the others would be the sum
        (root / RAIL / f"in{channel}_label").unlink()
    with PowerSampler(root=root, interval_s=0.01) as power:
        time.sleep(0.05)
        current.unlink()
        time.sleep(0.05)
        current.write_text(text)
        time.sleep(0.05)
    assert power.reading.mean_watts == pytest.approx(4.785)


def test_counter_of_a_processor_starts_again(tmp_path: Path) -> None:
    root = lay_out("laptop", tmp_path)  # 328850 µJ below its range
    _, problem, read = package_meter(root)
    assert problem is None
    assert read().joules == 0
    (root / COUNTER).write_text("1671149")
    (root / COUNTER.replace(":0/", ":0:0/")).write_text("900000")  # its cores: part of it
    assert read().joules == pytest.approx(2.0)
    (root / COUNTER).write_text("4671149")
    assert read().joules == pytest.approx(5.0)


def test_counter_is_read_around_the_body(tmp_path: Path) -> None:
    root = lay_out("laptop", tmp_path, {COUNTER: "1000000"})
    with PowerSampler("cpu", root=root) as power:
        (root / COUNTER).write_text("4000000")
    assert power.reading.joules == pytest.approx(3.0)
    found = sum_power([power.reading], images=20)
    assert found is not None
    assert found.joules_per_image == pytest.approx(0.15)
    assert found.source == "CPU package"
    json.dumps(asdict(found))
    twice = sum_power([power.reading] * 2, images=20)
    assert twice is not None
    assert twice.joules_per_image == pytest.approx(0.3)
    assert twice.mean_watts == pytest.approx(power.reading.mean_watts)


def test_counter_for_root_only(tmp_path: Path) -> None:
    root = lay_out("laptop", tmp_path)
    (root / COUNTER).unlink()
    (root / COUNTER).mkdir()
    with PowerSampler("cpu", root=root) as power:
        pass
    assert power.reading.joules is None
    assert power.reading.problem == "only root may read the CPU's energy counter; run with sudo"


def test_machine_without_a_counter(tmp_path: Path) -> None:
    with PowerSampler("cpu", root=tmp_path) as power:
        pass
    assert power.reading.joules is power.reading.mean_watts is None
    assert (
        power.reading.problem == "this CPU has no energy counter, or the virtual machine hides it"
    )
    assert sum_power([power.reading], images=3) is None


def test_error_in_the_body_comes_through(tmp_path: Path) -> None:
    root = lay_out("orin-nano", tmp_path)
    with pytest.raises(ZeroDivisionError), PowerSampler(root=root):
        _ = 1 / 0
