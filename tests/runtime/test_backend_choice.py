"""Which backend opens a model, on which device, and that a fall back to the CPU is never silent.

No GPU is here: a stand-in driver says there is one, and the installed onnxruntime, built for the
CPU, is really asked for its providers.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from numclip_runtime import GpuError, GpuRequiredError, ModelError, UsageError, load
from numclip_runtime.backends import OpenOptions, device_of
from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend, why_not, with_fallbacks
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver
from tests.runtime.conftest import invoke
from tests.runtime.opener import RTX, Opener
from tests.runtime.standin import StandinDriver

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
RTX_PROVIDER = "NvTensorRTRTXExecutionProvider"
CPU = "CPUExecutionProvider"
built_for_cpu = pytest.mark.skipif(
    CUDA in ort.get_available_providers(), reason="this onnxruntime is built for GPUs"
)
GPU = CudaDriver((CudaDevice("A GPU", 86),), (13, 0))


@pytest.mark.parametrize(
    ("name", "choice", "error", "message"),
    [
        ("a.onnx", {"device": "tpu"}, UsageError, "unknown device 'tpu'; choose from auto, cpu, c"),
        ("a.onnx", {"backend": "trt"}, UsageError, "unknown backend 'trt'; choose from onnxruntim"),
        ("a.onnx", {"backend": "tensorrt"}, UsageError, "build one with `numclip-export --onnx a"),
        ("a.onnx", {"device": "cpu", "require_gpu": True}, UsageError, "the CPU was chosen, and"),
        ("a.onnx", {"device": "cpu", "backend": "onnxruntime-rtx"}, UsageError, "the CPU was chos"),
        ("a.onnx", {"device": "cuda", "backend": "openvino"}, UsageError, "openvino runs on the C"),
        ("a.onnx", {"require_gpu": True, "backend": "openvino"}, UsageError, "openvino runs on th"),
        ("a.plan", {"backend": "onnxruntime"}, UsageError, "onnxruntime does not run plans"),
        ("a.engine", {"device": "cpu"}, UsageError, "the CPU was chosen"),
        ("a.engine", {}, ModelError, "not a TensorRT plan, it begins with b'any'"),
        ("a.trt", {}, ModelError, r"expected a \.onnx or \.plan file"),
    ],
)
def test_contradictions(
    tmp_path: Path, name: str, choice: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / name).write_bytes(b"any")
    with pytest.raises(error, match=message):
        load(tmp_path / name, **choice)


def test_sha256_of_an_onnx_file(tiny: Path) -> None:
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    load(tiny, sha256=digest).close()
    with pytest.raises(ModelError, match=rf"tiny\.onnx: its SHA-256 is {digest}, but the given"):
        load(tiny, sha256="0" * 64)


@pytest.mark.parametrize(
    ("provider", "available", "driver", "reason"),
    [
        (CUDA, [CUDA, CPU], GPU, None),
        (CUDA, [CUDA, CPU], CudaDriver(problem="no NVIDIA driver"), "no NVIDIA driver"),
        (CUDA, [CPU], GPU, "built without CUDAExecutionProvider; .*onnxruntime-gpu"),
        (TENSORRT, [CUDA, CPU], GPU, "built without TensorrtExecutionProvider; put onnxruntime-"),
        (
            RTX_PROVIDER,
            [CUDA, CPU],
            GPU,
            "it is a plug-in, .*; run a plan of --target tensorrt-rtx",
        ),
    ],
)
def test_why_a_provider_is_not_asked_for(
    provider: str, available: list[str], driver: CudaDriver, reason: str | None
) -> None:
    found = why_not(provider, available, driver)
    assert (found is None) == (reason is None)
    assert re.search(reason or "", found or "")


def test_what_a_session_asks_for() -> None:
    assert with_fallbacks(None) == [CPU]
    assert with_fallbacks(CUDA) == [(CUDA, {"use_tf32": "0"}), CPU]
    assert with_fallbacks(TENSORRT) == [(TENSORRT, {}), (CUDA, {"use_tf32": "0"}), CPU]


@built_for_cpu
@pytest.mark.parametrize(("device", "noted"), [("cpu", False), ("auto", True)])
def test_a_gpu_that_this_onnxruntime_cannot_use(
    tiny: Path, standin: StandinDriver, device: Any, noted: bool
) -> None:
    backend = OnnxRuntimeBackend(tiny, OpenOptions(device=device), library=standin.path)
    assert (backend.provider, backend.device) == (CPU, "cpu")
    assert bool(backend.notes) == noted
    if noted:
        (note,) = backend.notes
        assert note.startswith(f"{tiny}: runs on the CPU: this onnxruntime was built without CUDA")
    assert ("cuInit" in standin.calls) == (device != "cpu")


def test_no_gpu(tiny: Path) -> None:
    missing, problem = "libno-driver.so", "no NVIDIA driver, libno-driver.so cannot be loaded"
    assert OnnxRuntimeBackend(tiny, OpenOptions(), library=missing).notes == []
    with pytest.raises(GpuRequiredError, match=f"a GPU is required, and not used: {problem}"):
        OnnxRuntimeBackend(tiny, OpenOptions(require_gpu=True), library=missing)
    # a device that is asked for by its name is no wish, but a condition
    with pytest.raises(GpuRequiredError, match=f"the device cuda was asked for, .*: {problem}"):
        OnnxRuntimeBackend(tiny, OpenOptions(device="cuda"), library=missing)


@pytest.mark.parametrize(
    ("name", "device"),
    [("auto", "auto"), ("CPU", "cpu"), ("gpu", "cuda"), ("cuda:0", "cuda"), ("0", "cuda")],
)
def test_devices_as_people_name_them(name: str, device: str) -> None:
    assert device_of(name) == device


@pytest.mark.parametrize(
    ("name", "way_out"),
    [("cuda:1", "CUDA_VISIBLE_DEVICES=1"), ("2", "DEVICES=2"), ("mps", "choose from auto, cpu,")],
)
def test_devices_that_are_none(name: str, way_out: str) -> None:
    with pytest.raises(UsageError, match=way_out):
        device_of(name)


class Session:
    """onnxruntime's session, which really runs on the CPU, with what it would say and do."""

    reported = (CUDA, CPU)
    fails: str | None = None

    def __init__(self, path: str, options: Any, providers: list[Any], **rest: Any) -> None:
        assert rest["enable_fallback"] == 0  # it would print to stdout and go to the CPU by itself
        if self.fails is not None and providers != [CPU]:
            raise RuntimeError(self.fails)
        self.session = ort.InferenceSession(path, options, providers=[CPU], **rest)
        self.providers = [CPU] if providers == [CPU] else list(self.reported)

    def get_providers(self) -> list[str]:
        return self.providers

    def run(self, *args: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory\nand where")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """Make onnxruntime look like a build for GPUs; nothing real can be one here."""

    class Chosen(Session):
        pass

    module = SimpleNamespace(
        SessionOptions=ort.SessionOptions,
        get_available_providers=lambda: [TENSORRT, CUDA, CPU],
        InferenceSession=Chosen,
        preload_dlls=lambda: print("no libcublas"),
        disable_telemetry_events=ort.disable_telemetry_events,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return Chosen


def test_a_gpu_that_is_used(
    tiny: Path,
    standin: StandinDriver,
    gpu_build: type[Session],
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = OnnxRuntimeBackend(tiny, OpenOptions(require_gpu=True), library=standin.path)
    assert (backend.provider, backend.device, backend.notes) == (CUDA, "Stand-in GPU 0", [])
    with pytest.raises(GpuError, match=r"CUDAExecutionProvider failed \(CUDA failure 2: out of m"):
        backend.run(np.zeros((1, 3, 8, 8), np.float32))
    assert capsys.readouterr().out == ""  # records go there


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reported": (CPU,)}, "was asked for CUDAExecutionProvider and took CPUExecutionPr"),
        ({"fails": "no libcudnn.so.9\nat line 3"}, r"did not start \(no libcudnn\.so\.9\)"),
    ],
)
def test_a_session_that_falls_back_to_the_cpu_is_noticed(
    tiny: Path,
    standin: StandinDriver,
    gpu_build: type[Session],
    change: dict[str, Any],
    reason: str,
) -> None:
    for name, value in change.items():
        setattr(gpu_build, name, value)
    backend = OnnxRuntimeBackend(tiny, library=standin.path)
    (note,) = backend.notes
    assert re.search(reason, note)
    assert (backend.provider, backend.device) == (CPU, "cpu")
    with pytest.raises(GpuRequiredError, match=reason):
        OnnxRuntimeBackend(tiny, OpenOptions(require_gpu=True), library=standin.path)


def test_a_session_that_falls_back_to_cuda_is_noticed(
    tiny: Path, standin: StandinDriver, gpu_build: type[Session]
) -> None:
    gpu_build.reported = (CUDA, CPU)
    backend = OnnxRuntimeBackend(
        tiny, OpenOptions(backend="onnxruntime-tensorrt", require_gpu=True), library=standin.path
    )
    (note,) = backend.notes
    assert "asked for TensorrtExecutionProvider and took CUDAExecutionProvider" in note
    assert (backend.provider, backend.device) == (CUDA, "Stand-in GPU 0")


def command(*args: object, driver: StandinDriver | None = None) -> subprocess.CompletedProcess[str]:
    """Run numclip-run; with a driver, the process finds it as libcuda.so.1."""
    folder = {} if driver is None else {"LD_LIBRARY_PATH": str(Path(driver.path).parent)}
    return subprocess.run(
        [str(arg) for arg in (COMMAND, *args)],
        env={**os.environ, **folder},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@built_for_cpu
def test_command_says_what_runs(tiny: Path, photos: Path, standin: StandinDriver) -> None:
    line = f"onnxruntime: {CPU} on cpu, fp32, batch 1, "
    said = command(tiny, photos, "-v").stderr.splitlines()
    assert said[0].startswith(line)
    assert re.fullmatch(r"3 images in \d+\.\d s, \d+\.\d images/s", said[1])
    assert len(said) == 2
    assert command(tiny, photos).stderr == ""  # no terminal
    done = command(tiny, photos, "--verbose", driver=standin)
    assert done.returncode == 0
    chosen, note = done.stderr.splitlines()[:2]
    assert chosen.startswith(line)
    assert note.startswith(f"Note: {tiny}: runs on the CPU: this onnxruntime was ")
    assert command(tiny, photos, driver=standin).stderr.startswith("Note: ")  # never silent
    assert command(tiny, photos, "--device", "cpu", driver=standin).stderr == ""
    done = command(tiny, photos, "--device", "gpu", driver=standin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {tiny}: the device cuda was asked for, and cannot be")


@built_for_cpu
def test_command_requires_a_gpu(tiny: Path, photos: Path, standin: StandinDriver) -> None:
    done = command(tiny, photos, "--require-gpu", driver=standin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {tiny}: a GPU is required, and not used: this onnx")
    assert done.stderr.count("\n") == 1


def test_command_on_a_terminal(tiny: Path, photos: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, tiny, photos, "--backend", "onnxruntime"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    assert process.wait(60) == 0
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    assert said.startswith(f"onnxruntime: {CPU} on cpu, ")
    # a slow machine shows progress before it, which the carriage return writes over
    assert re.search(r"[\r\nK]3 images in .* images/s\r\n$", said), said
    os.close(ours)


def test_command_with_a_pinned_model(tiny: Path, photos: Path) -> None:
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert command(tiny, photos, "--sha256", digest).returncode == 0
    done = command(tiny, photos, "--sha256", digest[::-1])
    assert (done.returncode, done.stdout) == (2, "")
    assert "the given SHA-256 states" in done.stderr


def test_command_on_a_plan_without_a_gpu(open_plan: Opener, photos: Path) -> None:
    path = open_plan.write(RTX)
    done = command(path, photos)
    if "libcuda" in done.stderr:
        assert done.stderr == (
            f"Error: {path}: a plan runs on an NVIDIA GPU, and none can be used: no NVIDIA driver, "
            "libcuda.so.1 cannot be loaded; run the ONNX file it was built from, or go to a "
            "machine with a GPU.\n"
        )
    assert (done.returncode, done.stdout) == (2, "")


def test_notes_of_a_run_come_at_its_end(
    open_plan: Opener, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = open_plan(capturable=False)
    monkeypatch.setattr(
        "numclip_runtime.backends.origin.open_backend", lambda model, options: backend
    )
    flags = ["--batch-size", "1", "-v"]  # a size that comes again is captured
    result = invoke(open_plan.folder / "x.plan", *[photos / "dark.png"] * 3, *flags)
    first, _, note = result.stderr.splitlines()
    assert first.startswith("tensorrt: tensorrt_rtx 1.7.1.116 on Stand-in GPU 0, fp32, batch 1, ")
    assert note.startswith("Note: CUDA graphs are not used: ")


@pytest.mark.parametrize(
    ("sme", "precision", "without"), [(True, "int8", "1"), (True, "fp32", ""), (False, "int8", "")]
)
def test_int8_does_without_kleidiai_where_sme_may_be(
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    sme: bool,
    precision: str,
    without: str,
) -> None:
    """Where SME was emulated, its kernels were far off; on other ARM CPUs they were not."""
    model = tmp_path / "x.onnx"
    model.write_bytes(
        tiny.read_bytes().replace(b'"precision":"fp32"', b'"precision":"%s"' % precision.encode())
    )
    monkeypatch.setattr("numclip_runtime.backends.onnxruntime.may_have_sme", lambda: sme)
    backend = OnnxRuntimeBackend(model, OpenOptions(device="cpu"))
    assert backend.metadata.precision == precision
    options = backend._session.get_session_options()
    if without:
        assert options.get_session_config_entry("mlas.disable_kleidiai") == without
    else:
        with pytest.raises(RuntimeError, match=r"does not have .* mlas\.disable_kleidiai"):
            options.get_session_config_entry("mlas.disable_kleidiai")
