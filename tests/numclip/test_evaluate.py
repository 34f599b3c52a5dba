"""`numclip-eval` on a model that was really trained and exported, in both of its modes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from numclip.cli.evaluate import main
from numclip.evaluation.metrics import evaluate_predictions
from numclip.evaluation.predictions import EvaluationSource
from numclip_runtime import load, read_metadata
from numclip_runtime.backends import bf16
from numclip_runtime.metadata import Bf16Proof

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")  # Lightning's, of torch's

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "head_width": 32, "layers": 1, "width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, "layers": 1, "width": 64},
}
TASK = """name = "brightness"
unit = "points"
bin_edges = [0, 10, 20, 30]
phrases = ["dark", "medium", "bright"]
"""


def make_images(folder: Path, name: str, count: int) -> Path:
    """Write grey images and NAME.csv, whose labels are their brightness on a scale to 30."""
    rng = np.random.default_rng(count)
    (folder / name).mkdir()
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for i in range(count):
            level = int(rng.integers(256))
            pixels = np.clip(rng.normal(level, 20, (10, 10)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
            rows.writerow((f"{name}/{i}.png", round(level * 30 / 255, 1)))
    return folder / f"{name}.csv"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with test.csv, checkpoint.pt and model.onnx, made by the commands."""
    from numclip.cli.train import main as train
    from numclip_export.cli import main as export

    folder = tmp_path_factory.mktemp("eval")
    (folder / "clip.json").write_text(json.dumps(CLIP))
    (folder / "task.toml").write_text(TASK)
    data = {name: make_images(folder, name, n) for name, n in (("train", 32), ("val", 30))}
    make_images(folder, "test", 23)
    ckpt, model = folder / "checkpoint.pt", folder / "model.onnx"
    flags = ["--train", data["train"], "--val", data["val"], "--task", folder / "task.toml"]
    flags += ["--backbone", folder / "clip.json", "--regressor", "bounded", "-o", ckpt]
    flags += ["--epochs", 2, "--workers", 0, "--batch-size", 16, "--lr-image", 1e-3]
    done = CliRunner().invoke(train, list(map(str, flags)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "calibrated on 30 images: temperature " in done.output
    assert "90% interval typically ±" in done.output
    done = CliRunner().invoke(export, ["--ckpt", str(ckpt), "-o", str(model)])
    assert done.exit_code == 0, done.output
    return folder


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf) of nested lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)):
            yield from numbers(item, f"{path}/{key}")
        else:
            yield f"{path}/{key}", item


def test_both_modes_agree(home: Path, tmp_path: Path) -> None:
    results = {}
    for mode, file in (("--ckpt", "checkpoint.pt"), ("--model", "model.onnx")):
        done = invoke(mode, home / file, "--data", home / "test.csv", "-o", tmp_path / file)
        assert done.exit_code == 0, done.output
        assert "90% interval, covers / mean width" in done.output
        assert f"written: {tmp_path / file / 'metrics.json'}" in done.output
        results[file] = json.loads((tmp_path / file / "metrics.json").read_text("utf-8"))
        assert results[file].pop("artefact") == file
        assert results[file]["images"] == 23
    assert [row["stated"] for row in results["model.onnx"]["intervals"]] == [0.5, 0.8, 0.9, 0.95]
    one, other = (dict(numbers(results[file])) for file in ("checkpoint.pt", "model.onnx"))
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, float):
            assert other[key] == pytest.approx(value, abs=2e-4), key
        else:
            assert other[key] == value, key


def test_fast_decode(home: Path, tmp_path: Path) -> None:
    """Large JPEGs are read at a smaller size, and metrics.json says so."""
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
    data = tmp_path / "large.csv"
    data.write_text("path,label\n" + "".join(f"{i}.jpg,{10 + i}\n" for i in range(3)))
    metrics = []
    for flags in ([], ["--fast-decode"]):
        done = invoke("--model", home / "model.onnx", "--data", data, "-o", tmp_path, *flags)
        assert done.exit_code == 0, done.output
        metrics.append(json.loads((tmp_path / "metrics.json").read_text("utf-8")))
    assert "fast_decode" not in metrics[0]
    assert metrics[1]["fast_decode"] is True
    assert 0 < abs(metrics[0]["value"]["mae"] - metrics[1]["value"]["mae"]) < 1


def test_a_bundle_is_measured_by_the_file_that_this_machine_runs(
    home: Path, tmp_path: Path
) -> None:
    from numclip_export.cli import main as export

    arguments = [str(home / "model.onnx"), "--bundle", str(tmp_path / "b"), "--targets", "onnx"]
    assert CliRunner().invoke(export, arguments).exit_code == 0
    metrics = []
    for model in (home / "model.onnx", tmp_path / "b"):
        out = tmp_path / f"{model.name}-metrics"
        done = invoke(model, home / "test.csv", "-o", out)
        assert done.exit_code == 0, done.output
        found = json.loads((out / "metrics.json").read_text("utf-8"))
        assert found.pop("artefact") == model.name
        metrics.append(dict(numbers(found)))
    assert "model.onnx of this bundle: fp32 on the CPU" in done.output
    assert metrics[0] == metrics[1]
    done = invoke(tmp_path / "b", home / "test.csv", "-o", tmp_path / "b" / "bundle.json")
    assert done.exit_code == 2


def test_bfloat16_is_said(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    from numclip_export.graph.onnx_model import save_with_metadata
    from numclip_export.graph.types import features_name

    pytest.importorskip("openvino")
    monkeypatch.setattr(bf16, "has_bf16", lambda: True)
    plain = read_metadata(home / "model.onnx")
    model = onnx.load(home / "model.onnx")
    proof = Bf16Proof(features_name(model), 0.1, 0.1, 0.01, "emulation")
    proved = tmp_path / "proved.onnx"
    save_with_metadata(model, replace(plain, bf16=proof), proved)
    said = {}
    for path in (home / "model.onnx", proved):
        done = invoke(path, home / "test.csv", "-o", tmp_path / path.stem)
        assert done.exit_code == 0, done.output
        said[path.name] = "runs in bfloat16, as its export proved" in done.output
    assert said == {"model.onnx": False, "proved.onnx": True}


def test_runtime_interval_is_that_of_the_checkpoint(home: Path) -> None:
    from numclip.checkpoint import load_checkpoint
    from numclip.data.readers import read_samples
    from numclip.evaluation.predictions import predictions_of_checkpoint

    checkpoint = load_checkpoint(home / "checkpoint.pt")
    samples = read_samples(home / "test.csv", checkpoint.task)
    expected = predictions_of_checkpoint(checkpoint, samples).intervals(0.9)
    with load(home / "model.onnx") as predictor:
        assert predictor.metadata.calibration == checkpoint.calibration
        got = [item.interval for item in predictor.predict_batch([s.path for s in samples])]
    np.testing.assert_allclose(np.array(got), expected, atol=1e-3)  # label units, of 30


def test_uncalibrated_models_have_no_intervals(home: Path, tmp_path: Path) -> None:
    from numclip.checkpoint import load_checkpoint, save_checkpoint
    from numclip_export import ExportOptions, run_export

    bare = replace(load_checkpoint(home / "checkpoint.pt"), calibration=None)
    save_checkpoint(tmp_path / "bare.pt", bare)
    run_export(ExportOptions(tmp_path / "bare.pt", tmp_path / "bare.onnx"))
    with load(tmp_path / "bare.onnx") as predictor:
        assert predictor.predict(home / "test" / "0.png").interval is None
    assert (
        "none: this model is not calibrated"
        in invoke("--model", tmp_path / "bare.onnx", "--data", home / "test.csv").output
    )
    source = EvaluationSource(home / "test.csv", ckpt=tmp_path / "bare.pt")
    metrics = evaluate_predictions(source.predictions())
    assert metrics["intervals"] == []
    assert metrics["probability"]["nll"] == pytest.approx(
        metrics["probability"]["nll_uncalibrated"]
    )


def test_plot(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    args = ("--model", home / "model.onnx", "--data", home / "test.csv", "-o", tmp_path / "out")
    done = invoke(*args, "--plot")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "out" / "evaluation.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 800


def test_exported_model_needs_no_torch(home: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None, open_clip=None)\n"
        "from numclip.cli.evaluate import main\n"
        "main(['--model', sys.argv[1], '--data', sys.argv[2]])"
    )
    command = [sys.executable, "-c", code, str(home / "model.onnx"), str(home / "test.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MAE of the value" in done.stdout


def wrong_uses(home: Path, tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    model, data = ["--model", home / "model.onnx"], ["--data", home / "test.csv"]
    (tmp_path / "file").write_text("")
    (tmp_path / "range.csv").write_text(f"path,label\n{home / 'test' / '0.png'},31\n")
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "broken.csv").write_text("path,label\nbroken.png,3\n")
    return {
        "no model": (data, "give either --ckpt (a checkpoint) or --model (an exported model)."),
        "two models": (
            [*model, "--ckpt", home / "checkpoint.pt", *data],
            "give either --ckpt (a checkpoint) or --model (an exported model).",
        ),
        "plot into nowhere": (
            [*model, *data, "--plot"],
            "--plot needs a folder for the picture; give -o FOLDER.",
        ),
        "output is a file": (
            [*model, *data, "-o", tmp_path / "file"],
            f"{tmp_path / 'file'}: is a file; -o takes a folder, or a name that ends in .json.",
        ),
        "fast checkpoint": (
            ["--ckpt", home / "checkpoint.pt", *data, "--fast-decode"],
            "--fast-decode applies to exported models; give one with --model.",
        ),
        "no such data": (
            [*model, "--data", tmp_path / "gone.csv"],
            f"{tmp_path / 'gone.csv'}: cannot read this CSV file",
        ),
        "label out of range": (
            [*model, "--data", tmp_path / "range.csv"],
            f"{tmp_path / 'range.csv'} line 2: the label 31 is outside the task's range 0 to 30",
        ),
        "broken image": (
            [*model, "--data", tmp_path / "broken.csv"],
            f"{tmp_path / 'broken.png'}: the file is empty.",
        ),
        "checkpoint as model": (
            ["--model", home / "checkpoint.pt", *data],
            f"{home / 'checkpoint.pt'}: is a checkpoint, not an exported model; export it with",
        ),
        "model as checkpoint": (
            ["--ckpt", home / "model.onnx", *data],
            f"{home / 'model.onnx'}: is an exported model, not a checkpoint; give it as --model.",
        ),
        "no such checkpoint": (
            ["--ckpt", tmp_path / "gone.pt", *data],
            f"{tmp_path / 'gone.pt'}: no such file; make one with `numclip-train`.",
        ),
        "swapped": (
            [home / "test.csv", home / "model.onnx"],
            f"{home / 'test.csv'}: is a table or list; the model comes first: `",
        ),
        "folder as model": (
            [home, home / "test.csv"],
            f"{home}: is a folder; give the model file inside it, such as {home / 'model.onnx'}.",
        ),
    }


def test_wrong_use_is_one_sentence_and_exit_code_2(home: Path, tmp_path: Path) -> None:
    for what, (args, message) in wrong_uses(home, tmp_path).items():
        done = invoke(*args)
        assert done.exit_code == 2, (what, done.output)
        assert done.stdout == "", what
        assert done.stderr.startswith(f"Error: {message}"), (what, done.stderr)
        assert done.stderr.count("\n") == 1, (what, done.stderr)


def test_files_without_options_and_the_name_of_the_metrics(home: Path, tmp_path: Path) -> None:
    by_options = invoke("--model", home / "model.onnx", "--data", home / "test.csv")
    plain = invoke(home / "model.onnx", home / "test.csv", "-o", tmp_path / "new" / "m.json")
    assert plain.exit_code == 0, plain.stderr
    assert plain.stdout.startswith(by_options.stdout)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.json"]


def test_missing_matplotlib_names_the_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    args = ("--model", home / "model.onnx", "--data", home / "test.csv", "-o", tmp_path, "--plot")
    done = invoke(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: matplotlib is not installed; install with: pip install 'numclip[plot]'\n"
    )
    assert list(tmp_path.iterdir()) == []
