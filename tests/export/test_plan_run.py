"""`numclip-run` on real TensorRT-RTX plans where no GPU is: always a sentence, never a crash.

Where a test needs a driver to come further, a stand-in library is found as libcuda.so.1; the
TensorRT-RTX that is then loaded and refuses to work without a GPU is the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from numclip_export.engine.build import engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.model_files.plan import read_plan_metadata
from tests.runtime.standin import StandinDriver, compile_standin

trt = pytest.importorskip("tensorrt_rtx")

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"
TINY = Path(__file__).parents[1] / "data" / "tiny.onnx"
pytestmark = pytest.mark.skipif(probe_cuda().problem is None, reason="here is a real GPU")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> StandinDriver:
    return compile_standin(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Return a real engine for compute capability 8.6."""
    onnx = shutil.copy(TINY, tmp_path / "x.onnx")
    options = EngineOptions("tensorrt-rtx", compute_capabilities=(86,))
    Image.new("L", (8, 8), 10).save(tmp_path / "a.png")
    return engine_from_onnx(Path(onnx), tmp_path / "x.plan", options).plan


def run(plan: Path, driver: StandinDriver | None, capability: int = 86, *flags: str) -> str:
    """Run the command, which must fail in one line; return what it says after the plan's name."""
    environment = os.environ | {"STANDIN_CAPABILITY": str(capability)}
    if driver is not None:
        environment["LD_LIBRARY_PATH"] = str(Path(driver.path).parent)
    done = subprocess.run(
        [COMMAND, plan, plan.with_name("a.png"), *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"Error: {plan}: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix(f"Error: {plan}: ").strip()


def test_no_driver(plan: Path) -> None:
    assert run(plan, None) == (
        "a plan runs on an NVIDIA GPU, and none can be used: no NVIDIA driver, libcuda.so.1 cannot "
        "be loaded; run the ONNX file it was built from, or go to a machine with a GPU."
    )


def test_another_gpu(plan: Path, driver: StandinDriver) -> None:
    assert run(plan, driver, 89) == (
        "built for compute capability 8.6, and Stand-in GPU 0 has 8.9; build it for this GPU with "
        "`numclip-export --onnx x.onnx --target tensorrt-rtx --compute-capability 89`."
    )


def test_another_version(plan: Path, driver: StandinDriver) -> None:
    content = bytearray(plan.read_bytes())
    content[24:28] = bytes((1, 4, 0, 76))
    plan.write_bytes(content)
    assert "its SHA-256 is" in run(plan, driver)  # the builder wrote x.plan.sha256
    plan.with_name("x.plan.sha256").unlink()
    assert read_plan_metadata(plan).version == "1.4.0.76"
    assert run(plan, driver) == (
        f"built by TensorRT-RTX 1.4.0.76, and installed is TensorRT-RTX {trt.__version__}, which "
        "runs plans of its own version only; build it again with `numclip-export --onnx x.onnx "
        "--target tensorrt-rtx --compute-capability 86`."
    )


def test_tensorrt_that_gets_no_gpu(plan: Path, driver: StandinDriver) -> None:
    said = run(plan, driver)
    assert "tensorrt_rtx" in said
    assert trt.__version__ in said


def test_damaged_plan(plan: Path, driver: StandinDriver) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])
    assert "its SHA-256 is" in run(plan, driver)
    plan.with_name("x.plan.sha256").unlink()
    assert "damaged, its header states" in run(plan, driver)
