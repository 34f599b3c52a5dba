"""`numclip-export --fp16`: proved within budget, widened where needed, or nothing left behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from numclip_export.cli import main
from numclip_export.graph.run import cpu_session
from numclip_export.graph.types import node_precisions, precision_counts
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_export.precision.fp16_emulation import GraphRun
from numclip_runtime import load
from tests.export.disk import full_disk
from tests.export.fragile import FIRST_BLOCK, save_fragile
from tests.numclip.tiny import images_of

HEAD = ["adapter", "head", "regressor"]
OVERFLOW = 3e4  # LayerNorm's outputs reach 3 * 3e4, beyond 65504; its weights do not
FILES = {"x.pt", "val", "val.csv"}
WRITTEN = {"x.onnx", "x.onnx.sha256", "x.fp16.onnx", "x.fp16.onnx.sha256", "x.report.json"}


def run(ckpt: Path, *args: object) -> Result:
    options = ["--target", "onnx", *map(str, args)]  # engines have their own tests
    return CliRunner().invoke(main, ["--ckpt", str(ckpt), *options])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "x.report.json").read_text("utf-8"))
    return report


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a harmless model, exported with --fp16."""
    folder = tmp_path_factory.mktemp("plain")
    result = run(save_fragile(folder, 1), "--fp16")
    assert result.exit_code == 0, result.output
    (folder / "out.txt").write_text(result.output)
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model whose activations overflow, exported with --precision fp16."""
    folder = tmp_path_factory.mktemp("broken")
    result = run(save_fragile(folder, OVERFLOW), "--precision", "fp16")
    assert result.exit_code == 0, result.output
    (folder / "out.txt").write_text(result.output)
    return folder


def test_harmless_model_needs_no_widening(plain: Path) -> None:
    assert names(plain) == FILES | WRITTEN | {"out.txt"}
    whole, half = report_of(plain)["artefacts"]
    assert (whole["precision"], half["precision"]) == ("fp32", "fp16")
    assert half["parity"]["value_tolerance"] == pytest.approx(0.002 * 30)
    assert 1e-6 < half["parity"]["max_value_error"] <= 0.06
    assert whole["parity"]["max_value_error"] < half["parity"]["max_value_error"] / 10
    assert [step["step"] for step in half["widening"]] == ["head"]
    assert half["fp32_nodes"] == HEAD
    assert half["weights_beyond_fp16"] == []
    assert half["nodes"] == precision_counts(onnx.load(plain / "x.fp16.onnx"))
    assert half["nodes"]["fp16"] > 3 * half["nodes"]["fp32"]
    assert half["bytes"] == (plain / "x.fp16.onnx").stat().st_size < 0.62 * whole["bytes"]
    assert half["operators"]["LayerNormalization"] == 6
    assert 0.999 < half["parity"]["min_feature_cosine"] < 1
    printed = (plain / "out.txt").read_text()
    assert "x.fp16.onnx: in float32 adapter, head, regressor" in printed
    assert "was not enough" not in printed


def test_metadata_says_where_it_comes_from(plain: Path) -> None:
    with load(plain / "x.onnx") as whole, load(plain / "x.fp16.onnx") as half:
        metadata = half.metadata
        assert metadata.precision == "fp16"
        assert list(metadata.fp32_nodes) == HEAD
        assert metadata.verified is True
        assert metadata.checkpoint_sha256 == whole.metadata.checkpoint_sha256
        digest = hashlib.sha256((plain / "x.onnx").read_bytes()).hexdigest()
        assert metadata.source_sha256 == digest
        parity = report_of(plain)["artefacts"][1]["parity"]
        assert metadata.parity == {name: parity[name] for name in metadata.parity or ()}
        photo = plain / "val" / "3.png"
        assert half.predict(photo).value == pytest.approx(whole.predict(photo).value, abs=0.06)


def test_overflow_is_caught_and_repaired(broken: Path) -> None:
    whole, half = report_of(broken)["artefacts"]
    assert whole["parity"]["passed"]  # float32 does not mind
    *failed, last = half["widening"]
    assert [step["step"] for step in failed] == ["head", "normalisation layers and softmax"]
    assert not any(step["passed"] for step in failed)
    assert failed[0]["max_value_error"] is None  # NaN
    assert (last["step"], last["passed"]) == ("activations beyond float16", True)
    assert last["max_value_error"] <= 0.06
    assert f"{FIRST_BLOCK}.mlp.c_fc/MatMul" in last["added"]
    assert f"{FIRST_BLOCK}.ln_2" in half["fp32_nodes"]
    assert f"{FIRST_BLOCK}.mlp.c_fc/MatMul" in half["fp32_nodes"]
    precisions = node_precisions(onnx.load(broken / "x.fp16.onnx"))
    assert precisions[f"{FIRST_BLOCK}.mlp.c_proj/MatMul"] == "fp16"
    assert half["weights_beyond_fp16"] == []
    printed = (broken / "out.txt").read_text()
    assert "was not enough: head (max error nan)" in printed
    assert f"{FIRST_BLOCK}.mlp.c_fc/MatMul" in printed


def test_onnxruntime_alone_would_not_have_caught_it(broken: Path) -> None:
    model = onnx.load(broken / "x.onnx")
    half = fp16_from_fp32(model, head_nodes(model))
    images = images_of("vit", 8).numpy()
    expected = cpu_session(model).run(["values"], {"images": images})[0]
    blind = cpu_session(half).run(["values"], {"images": images})[0]
    assert np.abs(blind - expected).max() < 0.06
    assert np.isnan(GraphRun(half)(images)[0]).any()


def test_weights_beyond_float16_are_kept_and_named(tmp_path: Path) -> None:
    result = run(save_fragile(tmp_path, 1e6), "--fp16")
    assert result.exit_code == 0, result.output
    half = report_of(tmp_path)["artefacts"][1]
    assert half["weights_beyond_fp16"] == [f"{FIRST_BLOCK}.ln_2/LayerNormalization"]
    assert f"{FIRST_BLOCK}.ln_2" in half["fp32_nodes"]
    assert half["parity"]["passed"]


@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_left_of_what_cannot_be_repaired(tmp_path: Path, old: bool) -> None:
    ckpt = save_fragile(tmp_path, OVERFLOW)
    before = WRITTEN if old else set()
    for name in before:
        (tmp_path / name).write_text("an older export")
    result = run(ckpt, "--fp16", "--atol", 1e-4)  # the images alone, as float16, move more
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path / 'x.fp16.onnx'}: not kept, its values")
    assert "all blocks, not the stem: " in result.output
    assert result.output.count("\n") == 1
    assert names(tmp_path) == FILES | before
    assert all((tmp_path / name).read_text() == "an older export" for name in before)


@pytest.mark.parametrize("fp16", [False, True])
def test_no_verify_is_said_everywhere(tmp_path: Path, fp16: bool) -> None:
    ckpt = save_fragile(tmp_path, OVERFLOW)
    result = run(ckpt, "--no-verify", *(["--fp16"] if fp16 else []))
    assert result.exit_code == 0, result.output
    artefacts = report_of(tmp_path)["artefacts"]
    assert len(artefacts) == 1 + fp16
    for item in artefacts:
        assert (item["verified"], item["parity"]) == (False, None)
        with load(tmp_path / item["file"]) as predictor:
            assert (predictor.metadata.verified, predictor.metadata.parity) == (False, None)
    assert result.output.count("not verified") == 1 + fp16


@pytest.mark.parametrize("name", ["x.fp16.onnx", "x.report.json"])
def test_output_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    ckpt = save_fragile(tmp_path, 1)
    (tmp_path / name).mkdir()
    result = run(ckpt, "--fp16")
    assert result.exit_code == 2
    assert result.output == f"Error: {tmp_path / name}: is a folder; give a file name.\n"
    assert names(tmp_path) == FILES | {name}


def test_disk_full(tmp_path: Path) -> None:
    ckpt = save_fragile(tmp_path, 1)
    with full_disk(100_000):  # x.onnx has 220 kB
        result = run(ckpt, "--fp16")
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert result.stderr.startswith("Error: ")
    assert names(tmp_path) == FILES


def test_max_batch(tmp_path: Path) -> None:
    result = run(save_fragile(tmp_path, 1), "--max-batch", 3)
    assert result.exit_code == 0
    assert report_of(tmp_path)["artefacts"][0]["parity"]["batch_sizes"] == [1, 3]
    assert "batch sizes 1, 3;" in result.output
