"""Importing the runtime is cheap, and its public names are a decision."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import numclip_runtime
from numclip_runtime.errors import MissingDependencyError, import_extra, require
from tests.runtime.standin import StandinDriver

HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "openvino", "numclip", "numclip_export"}
HEAVY |= {"tensorrt", "tensorrt_rtx", "tensorrt_lean", "av", "pyarrow"}


def test_import_loads_no_framework() -> None:
    code = "import sys, numclip_runtime, numclip_runtime.app.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numclip_runtime.app.cli" in loaded
    assert not HEAVY & loaded


@pytest.mark.posix("reads the mappings of a process")
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
        "StoreError",
        "Task",
        "UsageError",
        "load",
        "read_metadata",
        "to_pandas",
    ]
    assert all(hasattr(numclip_runtime, name) for name in numclip_runtime.__all__)


BROKEN = {
    "raise ImportError('libx.so: cannot open')": r"libx\.so: cannot open",
    "raise OSError('libcudnn.so.9: cannot open')": r"libcudnn\.so\.9: cannot open",
    "raise RuntimeError('compiled against ABI version 0x1000009')": "compiled against ABI",
    "raise AttributeError('_ARRAY_API not found')": "_ARRAY_API not found",
    "raise KeyError": "KeyError",
    "import no_such_flatbuffers": "No module named 'no_such_flatbuffers'",
    "import broken_one.no_such_part": r"No module named 'broken_one\.no_such_part'",
    "from json import no_such_name": "cannot import name 'no_such_name' from 'json'",
    "1 +": "invalid syntax",
}


@pytest.mark.parametrize("source", BROKEN)
@pytest.mark.parametrize("act", [import_extra, require])
def test_a_broken_package_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, act: Callable[..., object]
) -> None:
    (tmp_path / "broken_one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    reason = rf"broken_one is installed but does not load \({BROKEN[source]}.*\); install it again"
    with pytest.raises(MissingDependencyError, match=rf"{reason} .*numclip\[gpu\]'") as error:
        act("gpu", "broken_one")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("act", [import_extra, require])
def test_a_missing_package_is_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[..., object]
) -> None:
    missing = r"^no_such is not installed; install with: pip install 'numclip\[gpu\]'$"
    with pytest.raises(MissingDependencyError, match=missing):
        act("gpu", "no_such")
    with pytest.raises(MissingDependencyError, match=missing):
        import_extra("gpu", "no_such.part")
    monkeypatch.setitem(sys.modules, "no_such", None)
    with pytest.raises(MissingDependencyError, match=missing):
        act("gpu", "no_such")
    (tmp_path / "leftover_one").mkdir()  # after an uninstall
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match="only an empty folder of it is left"):
        act("gpu", "leftover_one")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "MemoryError"])
@pytest.mark.parametrize("chained", [False, True])
def test_ctrl_c_and_too_little_memory_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str, chained: bool
) -> None:
    """Compiled modules turn what happens while they import numpy into an ImportError."""
    source = f"raise {raised}"
    if chained:
        source = f"try:\n    {source}\nexcept BaseException:\n    raise ImportError('multiarray')"
    (tmp_path / "stopped_one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((KeyboardInterrupt, MemoryError)) as error:
        import_extra("gpu", "stopped_one")
    assert error.type.__name__ == raised


def test_errors_are_also_the_builtin_one_would_catch() -> None:
    assert issubclass(numclip_runtime.UsageError, ValueError)
    assert issubclass(numclip_runtime.ModelError, ValueError)
    assert issubclass(numclip_runtime.ImageError, OSError)
    assert issubclass(numclip_runtime.MissingDependencyError, ImportError)
    assert issubclass(numclip_runtime.GpuError, RuntimeError)
    assert issubclass(numclip_runtime.GpuRequiredError, numclip_runtime.GpuError)
