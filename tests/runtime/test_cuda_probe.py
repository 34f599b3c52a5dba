"""The driver probe, against a small driver library that the test compiles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from numclip_runtime.cuda.probe import CudaDevice, CudaDriver, probe_cuda

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *handle, int index) { *handle = index + 7; return 0; }
int cuDeviceGetName(char *s, int n, int handle) {
  strncpy(s, handle == 7 ? "First GPU" : "Second GPU", n);
  return 0;
}
int cuDeviceGetAttribute(int *v, int attribute, int handle) {
  *v = attribute == 75 ? (handle == 7 ? 8 : 12) : attribute == 76 ? (handle == 7 ? 7 : 0) : -1;
  return 0;
}
int cuGetErrorString(int status, const char **text) { *text = "no device"; return 0; }
"""


def driver(folder: Path, *, init: int = 0, count: int = 2, source: str = DRIVER) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "driver.c").write_text(source)
    library = folder / "libdriver.so"
    flags = ["-shared", "-fPIC", f"-DINIT={init}", f"-DCOUNT={count}"]
    command = [compiler, *flags, "-o", str(library), str(folder / "driver.c")]
    subprocess.run(command, check=True)
    return str(library)


def test_devices(tmp_path: Path) -> None:
    devices = (CudaDevice("First GPU", 87), CudaDevice("Second GPU", 120))
    assert probe_cuda(driver(tmp_path)) == CudaDriver(devices, (12, 6))


def test_no_driver(tmp_path: Path) -> None:
    found = probe_cuda("libno-such-driver.so")
    assert found == CudaDriver(problem="no NVIDIA driver, libno-such-driver.so cannot be loaded")


def test_driver_that_does_not_work(tmp_path: Path) -> None:
    assert probe_cuda(driver(tmp_path, init=100)) == CudaDriver(
        problem="the NVIDIA driver does not work, cuInit: no device (100)"
    )


def test_no_gpu(tmp_path: Path) -> None:
    assert probe_cuda(driver(tmp_path, count=0)) == CudaDriver(
        (), (12, 6), "the NVIDIA driver shows no GPU"
    )


def test_library_that_is_no_driver(tmp_path: Path) -> None:
    library = driver(tmp_path, source="int other(void) { return 0; }")
    problem = probe_cuda(library).problem
    assert problem is not None
    assert "cuInit" in problem


def test_this_machine() -> None:
    found = probe_cuda()
    assert bool(found.devices) == (found.problem is None)
