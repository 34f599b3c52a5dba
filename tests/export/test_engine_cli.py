"""The command that builds engines: what it prints, leaves behind and refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from numclip_export.cli import main
from numclip_export.options import output_path
from numclip_runtime import UsageError
from numclip_runtime.model_files.plan import read_plan_metadata

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(DATA / "tiny.onnx", tmp_path / "x.fp16.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["--onnx", "x.fp16.onnx", *args])


def test_command(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = ["--compute-capability", "8.6,120,sm89", "--max-batch", "4", "--timing-cache", "t"]
    result = run("--target", "tensorrt-rtx", *options)
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == {
        "x.fp16.onnx",
        "x.fp16.plan",
        "x.fp16.plan.sha256",
    }
    info = read_plan_metadata(folder / "x.fp16.plan")
    assert info.engine.compute_capabilities == (86, 89, 120)
    first, second = result.stdout.splitlines()
    assert first.startswith("x.fp16.plan: 0.3 MB in ")
    assert first.endswith(
        f" s, TensorRT-RTX {info.version} for compute capability 8.6, 8.9, 12.0, "
        "batch 1 to 4, fastest at 4"
    )
    assert second.startswith("sha256 ")
    assert result.stderr.startswith("Note: TensorRT-RTX times nothing")


def test_needs_neither_torch_nor_onnx(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    code = (
        "import sys; from numclip_export.cli import main\n"
        "main(['--onnx', 'x.fp16.onnx', '--target', 'tensorrt-rtx'],"
        " standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("\n")[2].split())
    assert "tensorrt_rtx" in loaded
    assert not {"torch", "onnx", "onnxruntime", "numclip"} & loaded
    assert done.stderr == ""  # no progress bar where stderr is no terminal


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--min-batch", "5", "--max-batch", "4"), "Error: batches must be 1 <= --min-batch"),
        (("-o", "no.onnx"), "Error: no.onnx: the name must end in .plan, or be that of a f"),
        (("--target", "tensorrt-rtx", "--version-compatible"), "Error: TensorRT-RTX builds no"),
        (("--compute-capability", "ampere"), "'ampere' is not a list of compute capabilities"),
        (("--onnx", "y.onnx"), "Error: y.onnx: no such file"),
    ],
)
def test_wrong_use(folder: Path, args: tuple[str, ...], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert [path.name for path in folder.iterdir()] == ["x.fp16.onnx"]


def test_target(tmp_path: Path) -> None:
    path = tmp_path / "a.fp16.onnx"
    assert output_path(path, None, ".plan") == tmp_path / "a.fp16.plan"
    assert output_path(Path("a.onnx"), tmp_path, ".plan") == tmp_path / "a.plan"
    assert output_path(path, tmp_path / "b.plan", ".plan") == tmp_path / "b.plan"
    with pytest.raises(UsageError, match=r"the name must end in \.plan"):
        output_path(path, tmp_path / "no.onnx", ".plan")
