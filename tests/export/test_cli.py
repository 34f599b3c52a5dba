"""`numclip-export`: what it prints and leaves behind, and one sentence for each wrong use."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import numpy_helper

from numclip.cli.train import main as train
from numclip_export import ExportOptions, run_export
from numclip_export import export as export_module
from numclip_export.cli import main
from numclip_export.options import output_path
from numclip_export.parity import ParityError
from numclip_runtime import UsageError
from tests.export.chain import Chain


@pytest.fixture
def graph(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Return a copy of the chain's graph, which stands in for those of new exports."""
    copy = onnx.ModelProto()
    copy.CopyFrom(chain.graph)
    monkeypatch.setattr(export_module, "onnx_from_folded", lambda *args, **kwargs: copy)
    return copy


@pytest.fixture
def folder(chain: Chain, graph: onnx.ModelProto, tmp_path: Path) -> Path:
    """Return a folder that holds the chain's checkpoint as a.pt."""
    shutil.copy(chain.ckpt, tmp_path / "a.pt")
    return tmp_path


def run(folder: Path, *args: object) -> Result:
    return CliRunner().invoke(main, ["--ckpt", str(folder / "a.pt"), *map(str, args)])


def test_command(chain: Chain, folder: Path) -> None:
    (folder / "out").mkdir()
    result = run(folder, "-o", folder / "out", "--verify-data", chain.ckpt.parent / "val")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (folder / "out").iterdir()} == {
        "a.onnx",
        "a.onnx.sha256",
        "a.report.json",
    }
    first, costs, header, row, images, target, report = result.output.splitlines()
    assert "M in the text tower)" in first
    assert costs.startswith("folded: ")
    assert header.split()[:2] == ["file", "MB"]
    assert row.split()[0] == "a.onnx"
    assert images.startswith("compared on 5 given and 59 synthetic images, batch sizes 1, 8, 32;")
    assert target == "target: ONNX; no engine for fp32 unless --target names a builder"
    assert report == f"see {folder / 'out' / 'a.report.json'}"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("cause", ["tolerance", "bin_embeddings", "regressor"])
def test_difference_leaves_nothing_behind(
    folder: Path, graph: onnx.ModelProto, cause: str, old: bool
) -> None:
    if cause != "tolerance":
        shapes = {"bin_embeddings": {(3, 32), (32, 3)}, "regressor": {(3, 6)}}
        tensors = graph.graph.initializer
        (tensor,) = [t for t in tensors if tuple(t.dims) in shapes[cause]]
        changed = numpy_helper.to_array(tensor) * np.float32(1.05)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    if old:
        (folder / "a.onnx").write_bytes(b"an older export")
    result = run(folder, *(["--atol", 0] if cause == "tolerance" else []))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    moved, error = result.output.splitlines()[:2]
    assert moved.startswith("Warning: the checkpoint's validation data cannot be read, so the fil")
    assert error.startswith(f"Error: {folder / 'a.onnx'}: not kept, its values differ")
    assert {path.name for path in folder.iterdir()} == {"a.pt"} | ({"a.onnx"} if old else set())
    if old:
        assert (folder / "a.onnx").read_bytes() == b"an older export"
    with pytest.raises(ParityError, match="another --opset may help"):
        run_export(ExportOptions(folder / "a.pt", folder / "b.onnx", atol=0))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--verify-data", "gone"), "gone: no such file or folder; give a CSV file"),
        (("--verify-data", "gone.csv"), "gone.csv: cannot read this CSV file"),
        (("-o", "b.png"), "b.png: the name must end in .onnx, or be that of a folder"),
        (("--ckpt", "empty"), "empty: is a folder; give the checkpoint inside it"),
        (("--ckpt", "m.onnx"), "m.onnx: is an exported model, not a checkpoint; give its check"),
        (("--ckpt", "t.csv"), "t.csv: is a table or list, not a checkpoint; give a .pt or"),
        (("--fp16", "--int8"), "one export writes one precision beside fp32, and fp16 and int8"),
        (("--precision", "fp16", "--int8"), "one export writes one precision beside fp32"),
        (("m.onnx",), "give one checkpoint (.pt), or one ONNX file (.onnx) to build an engine"),
        (("--verify-data", "empty"), "empty: no images in this folder"),
        (("--verify-data", "empty", "--no-verify"), "--verify-data has no use with --no-verify"),
        (("--ckpt", "gone.pt"), "gone.pt: no such file"),
        (("--ckpt", "text.pt"), "text.pt: refused, not plain weights and settings"),
        (("--ckpt", "other.pt"), "other.pt: not a numclip checkpoint; make one with"),
    ],
)
def test_wrong_use_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    Path("text.pt").write_text("weights, perhaps")
    Path("empty").mkdir()
    torch.save({"state_dict": {}}, "other.pt")
    result = run(folder, *args)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert result.output.startswith(f"Error: {message}")
    assert result.output.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"a.pt", "text.pt", "other.pt", "empty"}


@pytest.mark.parametrize("module", ["torch", "onnx", "onnxscript", "onnxruntime"])
def test_missing_extra_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = run(tmp_path)
    command = "pip install 'numclip[export,cpu]'"
    assert result.exit_code == 2
    assert result.output == f"Error: {module} is not installed; install with: {command}\n"


def test_target(tmp_path: Path) -> None:
    ckpt = tmp_path / "a.pt"
    assert output_path(ckpt, None, ".onnx") == tmp_path / "a.onnx"
    assert output_path(Path("x.pt"), tmp_path, ".onnx") == tmp_path / "x.onnx"
    assert output_path(ckpt, tmp_path / "b.onnx", ".onnx") == tmp_path / "b.onnx"
    assert output_path(ckpt, tmp_path / "new", ".onnx") == tmp_path / "new" / "a.onnx"
    with pytest.raises(
        UsageError, match=r"b\.pt: the name must end in \.onnx, or be that of a fol"
    ):
        output_path(ckpt, tmp_path / "b.pt", ".onnx")


def test_options_of_tables_are_those_of_training() -> None:
    """Training's are not imported there: engines are built on devices without its packages."""
    texts = [
        {option.name: getattr(option, "help", None) for option in command.params}
        for command in (main, train)
    ]
    for name in ("path_column", "label_column", "skip_unlabelled"):
        assert texts[0][name] == texts[1][name]
        assert texts[0][name]
