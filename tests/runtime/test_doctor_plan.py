"""What the doctor says of plans: needed and found versions and GPUs, without TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest

from numclip_runtime import ModelMetadata, Preprocessing, Task, UsageError
from numclip_runtime.app.doctor.model import check_model
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata

ORIN = CudaDriver((CudaDevice("Orin", 87),), (12, 6))
RTX = CudaDriver((CudaDevice("NVIDIA GeForce RTX 3090", 86),), (13, 0))
NO_DRIVER = CudaDriver(problem="no NVIDIA driver, libcuda.so.1 cannot be loaded")


@pytest.fixture
def metadata() -> ModelMetadata:
    return ModelMetadata(Task("age", "years", (0, 1, 2), ("young", "old")), Preprocessing(), "fp16")


def plan(
    folder: Path,
    metadata: ModelMetadata,
    *,
    magic: bytes = b"vtrt",
    targets: tuple[int, ...] | None,
    version: tuple[int, ...] = (1, 7, 1, 116),
    flags: tuple[str, ...] = (),
) -> Path:
    builder = "tensorrt-rtx" if magic == b"vtrt" else "tensorrt"
    stated = ".".join(map(str, version))
    facts = EngineFacts(builder, stated, targets, 1, 8, 32, "0" * 64, flags)  # type: ignore[arg-type]
    rest = magic + bytes(100) + encode_metadata(metadata, facts).encode() + bytes(50)
    size = (28 + len(rest)).to_bytes(8, "little")
    path = folder / "model.plan"
    path.write_bytes(magic + bytes(4) + (2).to_bytes(8, "little") + size + bytes(version) + rest)
    return path


FULL = {"magic": b"ftrt", "version": (10, 3, 0, 26)}


@pytest.mark.parametrize(
    ("made", "found", "driver", "problem", "advice"),
    [
        ({"targets": (86,)}, "1.7.1.116", NO_DRIVER, "here is no NVIDIA driver", "numclip-run "),
        ({"targets": (86,)}, None, RTX, "TensorRT-RTX is not installed", "numclip[rtx]"),
        ({"targets": (86,)}, "1.6.0.3", RTX, "another version of TensorRT-RTX", "tensorrt-rtx"),
        ({"targets": (89,)}, "1.7.1.116", RTX, "built for other GPUs than NVIDIA", "--onnx "),
        ({"targets": (87,), **FULL}, "10.3.1", ORIN, "another version of TensorRT.", "tensorrt"),
        ({"targets": (86,), **FULL}, "10.3.0", ORIN, "built for other GPUs than Orin", "tensorrt"),
    ],
)
def test_plan_that_cannot_run(
    tmp_path: Path,
    metadata: ModelMetadata,
    made: dict[str, object],
    found: str | None,
    driver: CudaDriver,
    problem: str,
    advice: str,
) -> None:
    path = plan(tmp_path, metadata, **made)  # type: ignore[arg-type]
    check = check_model(path, {"tensorrt": found, "tensorrt_rtx": found}, driver)
    assert len(check.problems) == len(check.advice) == 1
    assert problem in check.problems[0]
    assert advice in check.advice[0]
    assert check.facts["precision"] == "fp16"


@pytest.mark.parametrize(
    ("made", "found", "driver", "needs", "built_for"),
    [
        ({"targets": (75, 86)}, "1.7.1.116", RTX, "TensorRT-RTX 1.7.1.116", "7.5 or 8.6"),
        (
            {"targets": None},
            "1.7.1.116",
            RTX,
            "TensorRT-RTX 1.7.1.116",
            "8.0, 8.6, 8.9, 12.0 or later",
        ),
        ({"targets": (87,), **FULL}, "10.3.0", ORIN, "TensorRT 10.3.0.26", "8.7"),
        (
            {"targets": (80,), "flags": ("version-compatible", "hardware-compatible"), **FULL},
            "11.4.1",
            ORIN,
            "TensorRT 10.3.0.26 or later",
            "8.0 or later",
        ),
    ],
)
def test_plan_that_fits_is_handed_to_the_predictor(
    tmp_path: Path,
    metadata: ModelMetadata,
    made: dict[str, object],
    found: str,
    driver: CudaDriver,
    needs: str,
    built_for: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(path: Path) -> None:
        raise UsageError(f"{path}: handed over.")  # this plan is a header without an engine

    monkeypatch.setattr("numclip_runtime.app.doctor.model.load", load)
    path = plan(tmp_path, metadata, **made)  # type: ignore[arg-type]
    check = check_model(path, {"tensorrt": found, "tensorrt_rtx": found}, driver)
    assert check.problems == [f"{path}: handed over."]
    gpu = f"{driver.devices[0].name} {driver.devices[0].compute_capability / 10:.1f}"
    assert check.facts["needs"] == f"{needs}; found {found}"
    assert check.facts["built for"] == f"compute capability {built_for}; found {gpu}"


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        ({"targets": (87,), **FULL}, "python3 -m venv --system-site-packages VENV"),
        ({"targets": None}, "There is no package of it for ARM; build the plan with JetPack's"),
    ],
)
def test_no_tensorrt_on_a_jetson(
    tmp_path: Path,
    metadata: ModelMetadata,
    made: dict[str, object],
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pip has neither package for ARM."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    path = plan(tmp_path, metadata, **made)  # type: ignore[arg-type]
    (given,) = check_model(path, {}, ORIN).advice
    assert given.startswith(advice)
    assert "pip install" not in given


def test_onnx_file_beside_a_plan(tmp_path: Path, metadata: ModelMetadata) -> None:
    path = plan(tmp_path, metadata, targets=(86,))
    for start in ("Copy here and run", "Run"):
        (advice,) = check_model(path, {}, NO_DRIVER).advice
        assert advice == (
            f"{start} the ONNX file it was built from: numclip-run {tmp_path / 'model.onnx'} IMAGES"
        )
        (tmp_path / "model.onnx").touch()


@pytest.mark.parametrize("suffix", [".plan", ".engine"])
def test_empty_plan(tmp_path: Path, suffix: str) -> None:
    (path := tmp_path / f"a{suffix}").touch()
    assert check_model(path, {}, RTX).problems == [
        f"{path}: not a TensorRT plan, but an empty file; copy or export it again."
    ]


def test_engine_suffix_is_a_plan_too(tmp_path: Path, metadata: ModelMetadata) -> None:
    path = plan(tmp_path, metadata, targets=(86,)).rename(tmp_path / "model.engine")
    check = check_model(path, {}, RTX)
    assert check.problems == ["TensorRT-RTX is not installed."]


def test_damaged_plan(tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(b"nothing like it")
    check = check_model(tmp_path / "a.plan", {}, RTX)
    assert "not a TensorRT plan" in check.problems[0]
