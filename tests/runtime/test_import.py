"""Importing the runtime is cheap, and its public names are a decision."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import numclip_runtime
from numclip_runtime.errors import MissingDependencyError, import_extra
from tests.runtime.standin import StandinDriver

HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "openvino", "numclip", "numclip_export"}
HEAVY |= {"tensorrt", "tensorrt_rtx", "tensorrt_lean", "av", "pyarrow"}


def test_import_loads_no_framework() -> None:
    code = "import sys, numclip_runtime, numclip_runtime.app.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numclip_runtime.app.cli" in loaded
    assert not HEAVY & loaded


def test_import_leaves_the_gpu_driver_alone(standin: StandinDriver) -> None:
    code = (
        "from pathlib import Path; maps = Path('/proc/self/maps')\n"
        "import numclip_runtime.app.cli, numclip_runtime.backends.tensorrt.backend\n"
        "print('libcuda.so.1' in maps.read_text())\n"
        "numclip_runtime.backends.tensorrt.backend.probe_cuda()\n"
        "print('libcuda.so.1' in maps.read_text())"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(Path(standin.path).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def run_as_user(code: str, home: Path, **variables: str) -> str:
    """Run code where nothing says that a test or a CI does; return what it prints."""
    hidden = ("ORT_", "XDG_", "CI", "GITHUB_", "TF_BUILD", "BUILD_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_onnxruntime_does_not_report_its_use(tiny: Path, tmp_path: Path) -> None:
    """Found: its wheels report their use from 1.29 on, and keep files in the home folder for it."""
    code = (
        "import numpy, numclip_runtime\n"
        f"with numclip_runtime.load({str(tiny)!r}, device='cpu') as predictor:\n"
        "    print(predictor.predict(numpy.zeros((8, 8), numpy.uint8)).unit)"
    )
    assert run_as_user(code, tmp_path) == "points"
    assert list(tmp_path.iterdir()) == []


def test_reports_can_be_allowed(tmp_path: Path) -> None:
    code = "import os, numclip_runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run_as_user(code, tmp_path, ORT_DISABLE_TELEMETRY="0") == "0"


def test_public_names() -> None:
    assert numclip_runtime.__all__ == [
        "Calibration",
        "GpuError",
        "GpuRequiredError",
        "ImageError",
        "MissingDependencyError",
        "ModelError",
        "ModelMetadata",
        "NumclipError",
        "Prediction",
        "Predictor",
        "Preprocessing",
        "Task",
        "UsageError",
        "load",
        "read_metadata",
    ]
    assert all(hasattr(numclip_runtime, name) for name in numclip_runtime.__all__)


def test_a_broken_package_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("raise ImportError('libx.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    again = r"cannot be imported \(libx\.so: cannot open\); .* pip install 'numclip\[gpu\]'"
    with pytest.raises(MissingDependencyError, match=again):
        import_extra("gpu", "broken_one")
    with pytest.raises(MissingDependencyError, match=r"no_such is not installed; .*numclip\[gpu\]"):
        import_extra("gpu", "no_such.part")


def test_errors_are_also_the_builtin_one_would_catch() -> None:
    assert issubclass(numclip_runtime.UsageError, ValueError)
    assert issubclass(numclip_runtime.ModelError, ValueError)
    assert issubclass(numclip_runtime.ImageError, OSError)
    assert issubclass(numclip_runtime.MissingDependencyError, ImportError)
    assert issubclass(numclip_runtime.GpuError, RuntimeError)
    assert issubclass(numclip_runtime.GpuRequiredError, numclip_runtime.GpuError)
