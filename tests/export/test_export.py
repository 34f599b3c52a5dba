"""The chain from checkpoint to predictor, and its report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from numclip.cli.train import main as train
from numclip.data.dataset import evaluation_transform
from numclip_export.cli import main as export
from numclip_export.graph.types import node_precisions
from numclip_runtime import load
from numclip_runtime.app.cli import main as run
from numclip_runtime.model_files.pin import pin_beside
from numclip_runtime.preprocess import load_rgb
from tests.export.chain import METRICS, Chain
from tests.numclip.tiny import TASK, TOWERS, write_photos


def test_predictor_equals_the_torch_pipeline(chain: Chain) -> None:
    paths = sorted((chain.ckpt.parent / "val").iterdir())
    assert len(paths) == 5
    transform = evaluation_transform(chain.checkpoint.preprocessing)
    with torch.no_grad():
        out = chain.checkpoint.model(torch.stack([transform(load_rgb(path)) for path in paths]))
    with load(chain.done.onnx, threads=1) as predictor:
        got = [predictor.predict(path) for path in paths]
    for prediction, value, probs in zip(got, out.values, out.bin_probs, strict=True):
        assert prediction.value == pytest.approx(value.item(), abs=1e-3)
        assert list(prediction.bin_probs.values()) == pytest.approx(probs.tolist(), abs=1e-5)
    assert len({round(prediction.value, 3) for prediction in got}) == 5  # photos differ
    assert 100 < got[0].value < 130  # label_offset is in


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_report(chain: Chain) -> None:
    assert chain.done.report == chain.ckpt.with_name("model.report.json")
    report = json.loads(chain.done.report.read_text("utf-8"))
    assert report == json.loads(json.dumps(chain.done.details))
    before, (after,) = report["checkpoint"], report["artefacts"]
    parity = after["parity"]
    for part, path in ((before, chain.ckpt), (after, chain.done.onnx)):
        assert (part["file"], part["bytes"]) == (path.name, path.stat().st_size)
        assert part["sha256"] == sha256(path)
    assert before["metrics"] == METRICS
    assert after["parameters"] < sum(before["parameters"].values())
    assert (after["opset"], after["precision"], after["verified"]) == (18, "fp32", True)
    assert after["nodes"] == {"fp32": len(node_precisions(chain.graph))}
    assert (parity["source"], parity["photos"], parity["images"]) == ("validation", 5, 64)
    assert (parity["passed"], parity["batch_sizes"]) == (True, [1, 8, 32])
    assert parity["value_tolerance"] == pytest.approx(30 * 1e-5)
    errors = [parity[f"{kind}_value_error"] for kind in ("mean", "p99", "max")]
    assert 0 < errors[0] < errors[1] <= errors[2] <= parity["value_tolerance"]
    assert 0.9999 < parity["min_feature_cosine"] <= parity["mean_feature_cosine"] < 1 + 1e-6
    assert report["macs"]["checkpoint"] > 1.05 * report["macs"]["folded"] > 0
    assert set(report["versions"]) == {"numclip", "torch", "open_clip_torch", "onnx"}
    assert str(chain.ckpt.parent) not in chain.done.report.read_text("utf-8")
    with load(chain.done.onnx) as predictor:
        metadata = predictor.metadata
    assert metadata.checkpoint_sha256 == before["sha256"]
    assert (metadata.verified, metadata.source_sha256, metadata.fp32_nodes) == (True, None, ())
    assert metadata.parity == {name: parity[name] for name in metadata.parity or ()}


def test_leaves_two_files_and_no_trace(chain: Chain) -> None:
    names = {path.name for path in chain.ckpt.parent.iterdir()}
    assert names == {
        "checkpoint.pt",
        "model.onnx",
        "model.onnx.sha256",
        "model.report.json",
        "offset.csv",
        "val",
        "val.csv",
    }


def test_the_checksum_beside_a_model_is_that_of_its_bytes(chain: Chain) -> None:
    model = chain.done.onnx
    line = f"{hashlib.sha256(model.read_bytes()).hexdigest()}  model.onnx\n"
    assert model.with_name("model.onnx.sha256").read_text() == line
    assert chain.done.files[0].sha256 == line[:64]
    assert pin_beside(model) == line[:64]


def test_three_commands_read_a_number_off_a_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path, "train", 8)
    write_photos(tmp_path, "val", 4)
    task = TASK.to_dict()
    toml = [f"{name} = {json.dumps(value)}" for name, value in task.items()]
    Path("task.toml").write_text("\n".join(toml), "utf-8")
    Path("tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    data = ["--train", "train.csv", "--val", "val.csv", "--task", "task.toml"]
    for command, args in (
        (train, [*data, "--backbone", "tiny.json", "--epochs", "1", "--workers", "0"]),
        (export, ["--ckpt", "checkpoint.pt"]),
        (run, ["checkpoint.onnx", "val/2.png", "-o", "out.json"]),
    ):
        result = CliRunner().invoke(command, args)
        assert result.exit_code == 0, result.output
    (record,) = json.loads(Path("out.json").read_text("utf-8"))
    assert record["path"] == "val/2.png"
    assert record["unit"] == TASK.unit
    assert set(record["bin_probs"]) == set(TASK.phrases)
    assert 0 < record["value"] < 30
