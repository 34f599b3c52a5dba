"""Wrong use of fp16, int8 and engines: one sentence, exit code 2, nothing written, at once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from click.testing import CliRunner, Result

from numclip.checkpoint import load_checkpoint, save_checkpoint
from numclip_export import export as export_module
from numclip_export.cli import main
from numclip_export.exported_file import Draft
from numclip_export.report import write_card
from tests.export.disk import full_disk
from tests.export.fragile import save_fragile

DATA = Path(__file__).parents[1] / "data"
INT8 = ("--ckpt", "x.pt", "--int8", "--target", "onnx")
FP16 = ("--ckpt", "x.pt", "--fp16", "--target", "onnx")
RTX = ("--ckpt", "x.pt", "--fp16", "--target", "tensorrt-rtx")
TINY = ("--onnx", str(DATA / "tiny.onnx"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with x.pt and its validation data; exporting anything fails."""
    save_fragile(tmp_path, 1)
    for name in ("empty", "corrupt", "folder.json", "x.report.json"):
        (tmp_path / name).mkdir()
    (tmp_path / "corrupt" / "a.png").write_bytes(b"not an image")
    (tmp_path / "empty.csv").write_text("path,label\n")
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "cut.json").write_text('{"key": "4f', "utf-8")
    (tmp_path / "other.json").write_text('{"settings": 1}', "utf-8")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    checkpoint = load_checkpoint(tmp_path / "x.pt")
    save_checkpoint(tmp_path / "alone.pt", replace(checkpoint, validation_csv=None))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_module, "onnx_from_folded", None)  # the slow part is not reached
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*INT8, "--calib-data", "gone"), "gone: no such file or folder; give a CSV file"),
        ((*INT8, "--calib-data", "empty"), "empty: no images in this folder"),
        ((*INT8, "--calib-data", "empty.csv"), "empty.csv: holds no images"),
        ((*INT8, "--calib-data", "corrupt"), "corrupt/a.png: not an image that Pillow can read"),
        ((*INT8, "--calib-cache", "folder.json"), "folder.json: is a folder; give a file name"),
        ((*INT8, "--calib-cache", "x.pt/c.json"), "x.pt/c.json: cannot write there"),
        (
            (*INT8, "--calib-cache", "x.pt"),
            "x.pt: not a calibration cache, or a damaged one; remove",
        ),
        (
            (*INT8, "--calib-cache", "cut.json"),
            "cut.json: not a calibration cache, or a damaged one",
        ),
        (
            (*INT8, "--calib-cache", "other.json"),
            "other.json: not a calibration cache, or a damaged",
        ),
        (("--ckpt", "alone.pt", "--int8"), "INT8 is calibrated on images, and the checkpoint's va"),
        (("--ckpt", "other.pt", "--int8"), "other.pt: not a numclip checkpoint; make one with"),
        (("--ckpt", "x.pt", "--fp16", "--target", "cpu"), "fp16 is for GPUs, a CPU computes it"),
        ((*FP16, "--calib-data", "val"), "--calib-data is for --int8; leave it out, or add --int8"),
        ((*FP16, "--calib-cache", "c.json"), "--calib-cache is for --int8; leave it out"),
        (("--ckpt", "x.pt", "--input", "uint8"), "--input uint8 is for fp16 and int8; the fp32"),
        ((*FP16, "--tf32"), "--tf32 is for engines, and none is built; leave it out"),
        (("--ckpt", "x.pt", "--opt-batch", "2"), "--opt-batch is for engines, and none is built"),
        ((*FP16, "--min-batch", "9", "--max-batch", "4"), "batches must be 1 <= --min-batch <= "),
        (("--ckpt", "x.pt", "--onnx", "x.onnx"), "give one checkpoint (.pt), or one ONNX file ("),
        ((), "give one checkpoint (.pt), or one ONNX file (.onnx) to build an engine"),
        (
            (*TINY, "--fp16"),
            "--precision (--fp16, --int8, --bf16) is for --ckpt; with --onnx the file",
        ),
        ((*TINY, "--no-verify"), "--no-verify is for --ckpt; with --onnx the file itself decides"),
        ((*TINY, "--calib-data", "val"), "--calib-data is for --ckpt; with --onnx the file itself"),
        (("--onnx", "x.pt"), "x.pt: is a checkpoint, not an exported model; export it with"),
        (("--onnx", "text.onnx"), "text.onnx: not an ONNX model, or a damaged one"),
        (("--onnx", str(DATA / "foreign.onnx")), f"{DATA / 'foreign.onnx'}: holds no numclip met"),
        ((*FP16, "-o", "no.plan"), "no.plan: the name must end in .onnx, or be that"),
        ((*FP16, "-o", "/proc"), "/proc/x.report.json: cannot write there"),
        (FP16, "x.report.json: is a folder; give a file name"),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, tuple) else "",
)
def test_one_sentence(folder: Path, args: tuple[str, ...], message: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert result.output.startswith(f"Error: {message}")
    assert result.output.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*RTX, "--compute-capability", "87"), "TensorRT-RTX 1."),
        ((*RTX, "--version-compatible"), "TensorRT-RTX builds no version-compatible engines"),
        ((*RTX, "-o", "plan.onnx"), "plan.fp16.plan: is a folder; give a file name"),
        ((*RTX, "-o", "sum.onnx"), "sum.fp16.plan.sha256: is a folder; give a file name"),
    ],
    ids=["capability", "version-compatible", "plan", "checksum"],
)
def test_engine_options_are_refused_before_the_export(
    folder: Path, args: tuple[str, ...], message: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    (folder / "plan.fp16.plan").mkdir()
    (folder / "sum.fp16.plan.sha256").mkdir()
    test_one_sentence(folder, args, message)


def remember(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("old", [False, True])
def test_disk_full_in_the_middle_of_the_int8_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    save_fragile(tmp_path, 1)
    if old:
        for name in ("x.onnx", "x.int8.onnx", "x.report.json", "x.card.md"):
            (tmp_path / name).write_text("an older export")
    before, real = remember(tmp_path), Draft.write

    def write(draft: Draft, *args: Any) -> None:
        with full_disk(50_000) if "int8" in draft.path.name else nullcontext():
            real(draft, *args)

    monkeypatch.setattr(Draft, "write", write)
    monkeypatch.chdir(tmp_path)
    result = run(*INT8, "--card")
    assert result.exit_code == 2, result.output
    assert result.stderr == "Error: x.int8.onnx: File too large.\n"
    assert remember(tmp_path) == before


def test_disk_full_at_the_card_takes_the_models_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_fragile(tmp_path, 1)
    before, real = remember(tmp_path), write_card

    def on_a_full_disk(details: dict[str, Any], file: IO[str]) -> None:
        with full_disk(100):
            real(details, file)
            file.flush()

    monkeypatch.setattr(export_module, "write_card", on_a_full_disk)
    monkeypatch.chdir(tmp_path)
    result = run("--ckpt", "x.pt", "--card")
    assert (result.exit_code, result.stderr) == (2, "Error: x.card.md: File too large.\n")
    assert remember(tmp_path) == before


def test_calibration_cache_survives_a_refused_export(tmp_path: Path) -> None:
    """It holds what was measured, whatever becomes of the file: the next try is faster."""
    save_fragile(tmp_path, 1)
    cache = tmp_path / "ranges.json"
    cache.touch()  # an empty file, as of mktemp, is no file of another kind
    before = {path.name for path in tmp_path.iterdir()}
    args = ("--ckpt", str(tmp_path / "x.pt"), "--int8", "--target", "onnx", "--atol", "1e-4")
    written = []
    for _ in range(2):
        result = run(*args, "--calib-cache", str(cache))
        assert result.exit_code == 1
        assert "x.int8.onnx: not kept" in result.output
        written.append((cache.stat().st_size, cache.stat().st_mtime_ns))
    assert written[0][0] > 100
    assert written[0] == written[1]
    assert {path.name for path in tmp_path.iterdir()} == before
