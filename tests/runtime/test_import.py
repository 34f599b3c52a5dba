"""Importing the runtime is cheap, and its public names are a decision."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numclip_runtime
from tests.runtime.standin import StandinDriver

HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "openvino", "numclip", "numclip_export"}
HEAVY |= {"tensorrt", "tensorrt_rtx", "tensorrt_lean", "av", "pyarrow"}


def test_import_loads_no_framework() -> None:
    code = "import sys, numclip_runtime, numclip_runtime.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numclip_runtime.cli" in loaded
    assert not HEAVY & loaded


def test_import_leaves_the_gpu_driver_alone(standin: StandinDriver) -> None:
    code = (
        "from pathlib import Path; maps = Path('/proc/self/maps')\n"
        "import numclip_runtime.cli, numclip_runtime.backends.tensorrt\n"
        "print('libcuda.so.1' in maps.read_text())\n"
        "numclip_runtime.backends.tensorrt.probe_cuda()\n"
        "print('libcuda.so.1' in maps.read_text())"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(Path(standin.path).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


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
    ]
    assert all(hasattr(numclip_runtime, name) for name in numclip_runtime.__all__)


def test_errors_are_also_the_builtin_one_would_catch() -> None:
    assert issubclass(numclip_runtime.UsageError, ValueError)
    assert issubclass(numclip_runtime.ModelError, ValueError)
    assert issubclass(numclip_runtime.ImageError, OSError)
    assert issubclass(numclip_runtime.MissingDependencyError, ImportError)
    assert issubclass(numclip_runtime.GpuError, RuntimeError)
    assert issubclass(numclip_runtime.GpuRequiredError, numclip_runtime.GpuError)
