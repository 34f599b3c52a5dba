"""What an export is for: every decision, with TensorRT-RTX as it is here, missing or broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from numclip_export.cli import main
from numclip_export.engine.build_options import EngineOptions
from numclip_export.options import Target, resolve_target
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.metadata import Precision
from tests.export.fragile import save_fragile

OPTIONS = EngineOptions()
LOADS_NOT = "raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')"
NO_VERSION = ""  # what an interrupted installation leaves
STARTS_NOT = """
__version__ = "1.7.0"
class ComputeCapability: __members__ = {"SM86": 0}
class ILogger:
    Severity = None
    def __init__(self): pass
class Builder:
    def __init__(self, logger): raise TypeError("factory function returned nullptr")
"""
no_gpu = pytest.mark.skipif(probe_cuda().problem is None, reason="this machine has a GPU")


@pytest.fixture
def rtx() -> str:
    """Return the version of the TensorRT-RTX that is installed, beside no TensorRT."""
    module = pytest.importorskip("tensorrt_rtx")
    return str(module.__version__)


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


def replace_module(
    monkeypatch: pytest.MonkeyPatch, folder: Path, source: str, name: str = "tensorrt_rtx"
) -> None:
    """Let Python find another module of this name, made of `source`."""
    (folder / "site").mkdir()
    (folder / "site" / f"{name}.py").write_text(source)
    for other in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, other, None)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder / "site")


@pytest.mark.parametrize(
    ("target", "precision", "expected", "note", "never"),
    [
        ("cpu", "fp32", "cpu", "target: onnxruntime on a CPU", True),
        ("cpu", "int8", "cpu", "target: onnxruntime on a CPU", True),
        ("onnx", "fp32", "onnx", "target: onnx", True),
        ("onnx", "fp16", "onnx", "target: onnx", True),
        ("onnx", "int8", "onnx", "target: onnx", True),
        ("auto", "fp32", "onnx", "target: ONNX; no engine for fp32 unless --target names", True),
        ("auto", "fp16", "onnx", "target: onnx; no engine was built here: no TensorRT is", False),
        ("auto", "int8", "cpu", "target: cpu; no engine was built here: no TensorRT is", False),
    ],
)
@pytest.mark.usefixtures("no_tensorrt")
def test_without_tensorrt(
    target: Target, precision: Precision, expected: Target, note: str, never: bool
) -> None:
    goal = resolve_target(target, precision, OPTIONS)
    assert (goal.target, goal.builds) == (expected, False)
    if never:  # on no machine: an engine's option would have no use
        with pytest.raises(UsageError, match="--tf32 is for engines, and none is built"):
            resolve_target(target, precision, EngineOptions(tf32=True))
    else:
        assert resolve_target(target, precision, EngineOptions(tf32=True)) == goal
    assert goal.note.startswith(note)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.usefixtures("no_tensorrt")
def test_a_builder_that_is_asked_for_must_be_there(target: Target) -> None:
    with pytest.raises(MissingDependencyError, match=r"^tensorrt(_rtx)? is not installed; inst"):
        resolve_target(target, "fp16", OPTIONS)


def test_no_fp16_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="use --int8, or leave --fp16 out"):
        resolve_target("cpu", "fp16", OPTIONS)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@no_gpu
def test_auto_takes_tensorrt_rtx_where_no_gpu_is(rtx: str, precision: Precision) -> None:
    goal = resolve_target("auto", precision, OPTIONS)
    assert (goal.target, goal.builds) == ("tensorrt-rtx", True)
    assert goal.note == f"target: tensorrt-rtx {rtx}, found here"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_as_asked_for(rtx: str, precision: Precision) -> None:
    goal = resolve_target("tensorrt-rtx", precision, OPTIONS)
    assert (goal.target, goal.builds) == ("tensorrt-rtx", True)
    assert goal.note == f"target: tensorrt-rtx {rtx}"


@pytest.mark.parametrize("target", ["auto", "tensorrt-rtx"])
@pytest.mark.usefixtures("rtx")
def test_what_the_builder_cannot_do_is_refused_at_once(target: Target) -> None:
    """Not a note that is read after minutes: the option was typed, and can be left out."""
    with pytest.raises(UsageError, match=r"121, not for 87; leave it out"):
        resolve_target(target, "fp16", EngineOptions(compute_capabilities=(86, 87)))
    with pytest.raises(UsageError, match="leave --hardware-compatible out"):
        resolve_target(
            target, "fp16", EngineOptions(hardware_compatible=True, compute_capabilities=(86,))
        )


@no_gpu
def test_tensorrt_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is installed, but not even loaded: without a driver it crashes the process."""
    replace_module(monkeypatch, tmp_path, "raise SystemExit('crashed')", name="tensorrt")
    for precision in ("fp16", "int8"):
        goal = resolve_target("auto", precision, OPTIONS)
        assert (goal.target, goal.builds) == ("onnx", False)
        assert resolve_target("auto", precision, EngineOptions(tf32=True)) == goal
        assert goal.note.startswith("target: ONNX; no engine was built here: TensorRT builds on")
    with pytest.raises(UsageError, match="build on the device, or use --target tensorrt-rtx"):
        resolve_target("tensorrt", "fp16", OPTIONS)


@pytest.mark.parametrize("source", [LOADS_NOT, NO_VERSION], ids=["library", "version"])
def test_broken_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    replace_module(monkeypatch, tmp_path, source)
    goal = resolve_target("auto", "fp16", OPTIONS)
    assert (goal.target, goal.builds) == ("onnx", False)
    assert "tensorrt_rtx is installed but does not load" in goal.note
    assert resolve_target("auto", "int8", OPTIONS).target == "cpu"
    with pytest.raises(MissingDependencyError, match="installed but does not load"):
        resolve_target("tensorrt-rtx", "fp16", OPTIONS)


def export(folder: Path, target: str) -> Result:
    ckpt = save_fragile(folder, 1)
    return CliRunner().invoke(main, ["--ckpt", str(ckpt), "--fp16", "--target", target])


WRITTEN = {"x.onnx", "x.onnx.sha256", "x.fp16.onnx", "x.fp16.onnx.sha256", "x.report.json"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"x.pt", "val", "val.csv", "site"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LOADS_NOT, "target: onnx; no engine was built here: tensorrt_rtx is installed but does"),
        (STARTS_NOT, "Note: no engine was built here: tensorrt-rtx 1.7.0 cannot start (factory"),
    ],
    ids=["loads-not", "starts-not"],
)
def test_a_broken_tensorrt_does_not_break_the_export(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, said: str
) -> None:
    replace_module(monkeypatch, tmp_path, source)
    result = export(tmp_path, "auto")
    assert result.exit_code == 0, result.output
    assert f"\n{said}" in result.output
    assert "\non the target: numclip-export --onnx x.fp16.onnx" in result.output
    assert names(tmp_path) == WRITTEN


def test_a_broken_tensorrt_is_an_error_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_module(monkeypatch, tmp_path, LOADS_NOT)
    result = export(tmp_path, "tensorrt-rtx")
    assert result.exit_code == 2
    assert result.output.startswith("Error: tensorrt_rtx is installed but does not load")
    assert names(tmp_path) == set()


def test_a_build_that_fails_keeps_the_files_and_their_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_module(monkeypatch, tmp_path, STARTS_NOT)
    result = export(tmp_path, "tensorrt-rtx")
    assert result.exit_code == 2
    assert "x.fp16.onnx" in result.stdout  # the files are described all the same
    assert result.stderr.startswith("Error: tensorrt-rtx 1.7.0 cannot start (factory")
    assert names(tmp_path) == WRITTEN
    report = json.loads((tmp_path / "x.report.json").read_text("utf-8"))
    assert [item["file"] for item in report["artefacts"]] == ["x.onnx", "x.fp16.onnx"]
    assert "engine" not in report
