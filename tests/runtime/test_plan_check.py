"""Whether a plan may and can run here: one sentence with what is found, needed and to be done."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime import GpuRequiredError, MissingDependencyError, ModelError, UsageError
from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend
from numclip_runtime.backends.tensorrt.checks import (
    check_gpu,
    check_version,
    rebuild,
)
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.pin import check_pinned
from numclip_runtime.model_files.plan import PlanInfo, read_plan_metadata
from tests.runtime.opener import RTX, TENSORRT, Opener
from tests.runtime.standin import StandinDriver

PATH = Path("models/x.fp16.plan")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.plan"
    path.write_bytes(b"content")
    return path


def compare(file: Path, pinned: str | None) -> None:
    with OpenModel(file) as model:
        check_pinned(model, pinned)


@pytest.mark.parametrize("place", ["given", "beside"])
def test_sha256(file: Path, place: str) -> None:
    def check(pin: str) -> None:
        if place == "beside":
            file.with_name("a.plan.sha256").write_text(f"{pin}  a.plan\n")
        compare(file, pin if place == "given" else None)

    good = digest(file)
    check(good)
    check(good.upper())
    source = "the given SHA-256" if place == "given" else r"a\.plan\.sha256"
    with pytest.raises(ModelError, match=rf"its SHA-256 is {good}, but .*{source} states 0{{64}}"):
        check("0" * 64)
    with pytest.raises(UsageError, match=rf"{source}: '{good[1:]}' is not a SHA-256"):
        check(good[1:])


def test_sha256_file_that_says_nothing(file: Path) -> None:
    compare(file, None)  # no file, no pin
    for content in (b"", b"\xff\xfe"):
        file.with_name("a.plan.sha256").write_bytes(content)
        with pytest.raises(
            UsageError, match=r"a\.plan\.sha256: states no single SHA-256|\\udcff.* is"
        ):
            compare(file, None)
        compare(file, digest(file))  # what is given comes first


def test_the_checksum_comes_before_all_else(open_plan: Opener, standin: StandinDriver) -> None:
    path = open_plan.write(RTX)
    path.with_name("x.plan.sha256").write_text(f"{digest(path)}  x.plan\n")
    path.write_bytes(b"no plan at all")
    with pytest.raises(ModelError, match="its SHA-256 is"):
        TensorRTBackend(path, library=standin.path)
    with pytest.raises(ModelError, match="not a TensorRT plan"):
        TensorRTBackend(path, OpenOptions(sha256=digest(path)), library=standin.path)
    assert standin.calls == []


def gpu(capability: int) -> CudaDriver:
    return CudaDriver((CudaDevice("A GPU", capability),), (12, 6))


def info(open_plan: Opener, facts: Any = RTX, **changes: Any) -> PlanInfo:
    return read_plan_metadata(open_plan.write(dataclasses.replace(facts, **changes)))


@pytest.mark.parametrize(
    ("facts", "capability", "sentence"),
    [
        (RTX, 86, None),
        (RTX, 89, None),
        (
            RTX,
            120,
            "built for compute capability 8.6 or 8.9, and A GPU has 12.0; build it for this GPU "
            "with `numclip-export --onnx x.fp16.onnx --target tensorrt-rtx --compute-capability "
            "120`.",
        ),
        (
            RTX,
            87,  # Orin: TensorRT-RTX builds nothing for it
            "built for compute capability 8.6 or 8.9, and A GPU has 8.7; build it for this GPU "
            "with `numclip-export --onnx x.fp16.onnx --target tensorrt`.",
        ),
        (dataclasses.replace(RTX, compute_capabilities=None), 120, None),
        (
            dataclasses.replace(RTX, compute_capabilities=None),
            75,
            "built for compute capability 8.0, 8.6, 8.9, 12.0 or later, and A GPU has 7.5; build "
            "it for this GPU with `numclip-export --onnx x.fp16.onnx --target tensorrt-rtx "
            "--compute-capability 75`.",
        ),
        (dataclasses.replace(RTX, compute_capabilities=None), 130, None),
        *(
            (
                dataclasses.replace(RTX, compute_capabilities=None),
                capability,  # H100 and H200, where TensorRT-RTX was seen to refuse; B200, Orin
                "built for compute capability 8.0, 8.6, 8.9, 12.0 or later, and A GPU has "
                f"{capability / 10}; build it for this GPU with `numclip-export --onnx x.fp16.onnx "
                "--target tensorrt`.",
            )
            for capability in (90, 100, 87)
        ),
        (dataclasses.replace(TENSORRT, flags=("hardware-compatible",)), 90, None),
        (TENSORRT, 86, None),
        (dataclasses.replace(TENSORRT, flags=("hardware-compatible",)), 89, None),
        (
            TENSORRT,
            89,
            "built for compute capability 8.6, and A GPU has 8.9; build it for this GPU with "
            "`numclip-export --onnx x.fp16.onnx --target tensorrt`.",
        ),
    ],
)
def test_gpu(open_plan: Opener, facts: Any, capability: int, sentence: str | None) -> None:
    if sentence is None:
        assert check_gpu(PATH, info(open_plan, facts), gpu(capability)).name == "A GPU"
    else:
        with pytest.raises(GpuRequiredError) as error:
            check_gpu(PATH, info(open_plan, facts), gpu(capability))
        assert str(error.value) == f"{PATH}: {sentence}"


def test_no_driver(open_plan: Opener) -> None:
    with pytest.raises(GpuRequiredError) as error:
        check_gpu(
            PATH, info(open_plan), CudaDriver(problem="no NVIDIA driver, lib cannot be loaded")
        )
    assert str(error.value) == (
        f"{PATH}: a plan runs on an NVIDIA GPU, and none can be used: no NVIDIA driver, lib cannot "
        "be loaded; run the ONNX file it was built from, or go to a machine with a GPU."
    )


@pytest.mark.parametrize(
    ("facts", "version", "fits"),
    [
        (RTX, "1.7.1.116", True),
        (RTX, "1.7.1.117", False),
        (RTX, "1.8.0.1", False),
        (TENSORRT, "10.3.0.26", True),
        (TENSORRT, "10.3.0", True),  # JetPack's package says no more
        (TENSORRT, "10.3.0.27", False),
        (TENSORRT, "10.16.1.11", False),
        (dataclasses.replace(TENSORRT, flags=("version-compatible",)), "10.16.1.11", True),
        (dataclasses.replace(TENSORRT, flags=("version-compatible",)), "11.4.0.106", True),
        (dataclasses.replace(TENSORRT, flags=("version-compatible",)), "10.2.0", False),
    ],
)
def test_version(open_plan: Opener, facts: Any, version: str, fits: bool) -> None:
    plan, device = info(open_plan, facts), CudaDevice("A GPU", 86)
    if fits:
        check_version(PATH, plan, version, device)
        return
    with pytest.raises(ModelError) as error:
        check_version(PATH, plan, version, device)
    name = "TensorRT-RTX" if facts is RTX else "TensorRT"
    text = str(error.value)
    assert text.startswith(f"{PATH}: built by {name} {plan.version}, and installed is {name} ")
    assert f"{name} {version}, which runs plans of its own version " in text
    assert text.endswith(f"; build it again with `{rebuild(PATH, plan, 86)}`.")
    assert ("or before" in text) == bool(facts.flags)


@pytest.mark.parametrize(
    ("flags", "packages", "chosen"),
    [
        ((), ("tensorrt", "tensorrt_lean"), "tensorrt"),
        (("version-compatible",), ("tensorrt", "tensorrt_lean"), "tensorrt"),
        (("version-compatible",), ("tensorrt_lean",), "tensorrt_lean"),
        ((), ("tensorrt_lean",), None),  # which runs version-compatible plans only
        (("version-compatible",), (), None),
        ((), ("tensorrt_rtx",), None),
    ],
)
def test_which_package(
    open_plan: Opener,
    standin: StandinDriver,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    packages: tuple[str, ...],
    chosen: str | None,
) -> None:
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in packages:
        open_plan.install(name, "10.3.0.26")
    path = open_plan.write(dataclasses.replace(TENSORRT, flags=flags))
    if chosen is None:
        with pytest.raises(MissingDependencyError, match=r"tensorrt is not installed; .*JetPack"):
            TensorRTBackend(path, library=standin.path)
    else:
        backend = TensorRTBackend(path, library=standin.path)
        assert backend.provider == f"{chosen} 10.3.0.26"
        backend.close()


def test_rtx_is_not_installed(
    open_plan: Opener, standin: StandinDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'numclip\[rtx\]'"):
        TensorRTBackend(open_plan.write(RTX), library=standin.path)


def test_nothing_is_imported_before_gpu_and_driver_fit(
    open_plan: Opener, standin: StandinDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_plan.folder / "tensorrt_rtx.py").write_text("raise SystemExit('crash')")
    monkeypatch.syspath_prepend(open_plan.folder)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    path = open_plan.write(RTX)
    monkeypatch.setenv("STANDIN_CAPABILITY", "75")
    with pytest.raises(GpuRequiredError, match=r"Stand-in GPU 0 has 7\.5"):
        TensorRTBackend(path, library=standin.path)
    monkeypatch.setenv("STANDIN_DEVICES", "0")
    with pytest.raises(GpuRequiredError, match="used: the NVIDIA driver does not work, cuInit"):
        TensorRTBackend(path, library=standin.path)
    monkeypatch.delenv("STANDIN_DEVICES")
    monkeypatch.setenv("STANDIN_CAPABILITY", "86")
    with pytest.raises(SystemExit, match="crash"):
        TensorRTBackend(path, library=standin.path)
