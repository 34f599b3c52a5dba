"""NVML: the real package without a driver, and with a stand-in for the driver's library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.machine.energy import PowerSampler
from benchmarks.bench.machine.nvidia import harmful, read_gpus, throttle_words

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, time
from dataclasses import asdict
from benchmarks.bench.machine.energy import PowerSampler, sum_power
from benchmarks.bench.machine.nvidia import read_gpus
gpus, problem = read_gpus()
with PowerSampler("gpu", interval_s=0.02) as power:
    time.sleep(0.3)
with PowerSampler("gpu", gpu=7) as absent:
    pass
readings = [asdict(power.reading), asdict(absent.reading)]
energy = sum_power([power.reading], images=100)
print(json.dumps([[asdict(gpu) for gpu in gpus], problem, *readings, energy and asdict(energy)]))
"""


@pytest.mark.parametrize(
    ("bits", "words", "bad"),
    [
        (0, [], []),
        (0x1, ["idle"], []),
        (0x4, ["power limit"], []),
        (0x44, ["power limit", "hardware's thermal slowdown"], ["hardware's thermal slowdown"]),
        (
            0xA8,
            ["hardware slowdown", "driver's thermal slowdown", "power brake of the machine"],
            ["hardware slowdown", "driver's thermal slowdown", "power brake of the machine"],
        ),
        (0x1200, ["unknown reason 0x1200"], []),
    ],
)
def test_reasons_in_words(bits: int, words: list[str], bad: list[str]) -> None:
    assert throttle_words(bits) == words
    assert harmful(bits) == bad


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpus() == (
        [],
        "nvidia-ml-py is not installed; install it with: pip install 'numclip[nvml]'",
    )
    with PowerSampler("gpu") as power:
        pass
    assert power.reading.joules is power.reading.mean_watts is None
    assert power.reading.problem is not None
    assert "numclip[nvml]" in power.reading.problem


def test_without_a_driver() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        assert read_gpus() == ([], "NVML: NVML Shared Library Not Found")
    else:
        pytest.skip("this machine has a driver")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the stand-in; return its folder."""
    pytest.importorskip("pynvml")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in library")
    folder = tmp_path_factory.mktemp("nvml")
    output, source = folder / "libnvidia-ml.so.1", ROOT / "tests/data/standin_nvml.c"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(output), str(source)], check=True)
    return folder


def ask(library: Path, **environment: str) -> Any:
    """Read the stand-in's GPU in a process of its own: a loaded library stays for good."""
    paths = [str(ROOT), str(ROOT / "runtime"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = os.environ | {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_gpu_at_its_power_limit(library: Path) -> None:
    gpus, problem, power, absent, energy = ask(library)
    assert problem is None
    assert gpus == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "sm": "9.0",
            "driver": "580.65.06",
            "cuda": "13.0",
            "sm_mhz": 1755,
            "sm_max_mhz": 1980,
            "memory_mhz": 2619,
            "memory_max_mhz": 2619,
            "celsius": 61,
            "slowdown_celsius": 89,
            "throttle_reasons": ["power limit"],
            "harmful_reasons": [],
            "watts": 412.345,
            "limit_watts": 700.0,
            "energy_j": pytest.approx(gpus[0]["energy_j"]),
            "memory_used_mb": 2520.81,
            "memory_mb": 85520.81,
            "persistence_mode": True,
            "power_throttled_s": 0.02,
            "thermal_throttled_s": 1.5,
            "other_processes": 1,  # of two, one is ours
        }
    ]
    assert power["problem"] is None
    assert power["seconds"] >= 0.3
    assert power["mean_watts"] == pytest.approx(400, rel=0.02)  # the counter grows by 400 J/s
    assert energy["joules_per_image"] == pytest.approx(power["joules"] / 100, rel=1e-3)
    assert power["sm_mhz"] == [1755, 1755]
    assert power["throttle"] == {"power limit": 1.0}
    assert power["harmful"] == {}
    assert absent["problem"] == "NVML: GPU 7: Not Found"
    assert absent["joules"] is None


def test_a_hot_gpu(library: Path) -> None:
    gpus, _, power, *_ = ask(library, STANDIN_REASONS="0x60")
    hot = ["driver's thermal slowdown", "hardware's thermal slowdown"]
    assert gpus[0]["harmful_reasons"] == hot
    assert power["harmful"] == dict.fromkeys(hot, 1.0)


def test_nvml_of_a_jetson_knows_only_the_name(library: Path) -> None:
    (gpu,), problem, power, *_ = ask(library, STANDIN_TEGRA="1")
    assert problem is None
    assert gpu["name"] == "Orin (nvgpu)"
    assert gpu["watts"] is gpu["sm"] is gpu["throttle_reasons"] is None
    assert power["problem"] == "GPU 0 reports neither energy nor power"
    assert power["joules"] is None
