"""Importing the runtime is cheap, and its public names are a decision."""

from __future__ import annotations

import subprocess
import sys

import numclip_runtime

HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "tensorrt", "numclip", "numclip_export"} | {
    "av",
    "pyarrow",
    "tensorrt_rtx",
}


def test_import_loads_no_framework() -> None:
    code = "import sys, numclip_runtime, numclip_runtime.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numclip_runtime.cli" in loaded
    assert not HEAVY & loaded


def test_public_names() -> None:
    assert numclip_runtime.__all__ == [
        "Calibration",
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
