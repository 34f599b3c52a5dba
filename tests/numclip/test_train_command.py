"""`numclip-train`: a tiny real run, and one sentence for each wrong use."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from numclip.checkpoint import load_checkpoint
from numclip.cli.evaluate import main as evaluate
from numclip.cli.train import main
from numclip.model.preprocessing import STATISTICS
from numclip_runtime import Preprocessing, __version__
from tests.numclip.tiny import TASK, TOWERS, VIT, write_photos

SMALL = ("--epochs", 2, "--batch-size", 8, "--workers", 0)
TOML = f"""
name = "{TASK.name}"
unit = "{TASK.unit}"
context = "{TASK.context}"
bin_edges = {list(TASK.bin_edges)}
phrases = {list(TASK.phrases)}
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: train.csv, val.csv, task.toml, tiny.json."""
    write_photos(tmp_path, "train", 10)
    write_photos(tmp_path, "val", 5)
    (tmp_path / "task.toml").write_text(TOML, "utf-8")
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*args: object, **changed: str) -> Result:
    """Run the command on the data, with the options changed by name."""
    given = {"train": "train.csv", "val": "val.csv", "task": "task.toml", "backbone": "tiny.json"}
    options = [text for name, value in (given | changed).items() for text in (f"--{name}", value)]
    return CliRunner().invoke(main, [*options, *map(str, (*SMALL, *args))])


def test_writes_a_checkpoint(data: Path) -> None:
    rates = ("--lr-image", 1e-3, "--lr-text", 1e-3, "--lr-context", 1e-3, "--lr-regressor", 0)
    choices = ("--normalize", "clip", "--resize-mode", "shortest", "--regressor", "bounded")
    logs = ("--run-dir", "logs", "--logit-scale", 20)
    result = train("-o", "out.pt", *rates, *choices, *logs)
    assert result.exit_code == 0, result.output
    assert "train: 10 images, labels 0 to 30 points" in result.output
    assert "val: 5 images, labels 0 to 30 points" in result.output
    checkpoint = load_checkpoint(Path("out.pt"))
    assert checkpoint.task == TASK
    assert checkpoint.preprocessing.resize_mode == "shortest"
    assert (checkpoint.preprocessing.crop, checkpoint.preprocessing.resize) == (32, 37)
    assert (checkpoint.preprocessing.mean, checkpoint.preprocessing.std) == STATISTICS["clip"]
    assert checkpoint.model.config.regressor == "bounded"
    assert not checkpoint.model.regressor.get_parameter("fc.bias").any()  # frozen at its start
    assert checkpoint.model.logit_scale.exp().item() == pytest.approx(20)
    assert checkpoint.validation_csv == str(data / "val.csv")
    last = f"out.pt: validation MAE {checkpoint.metrics['mae']:.3f} points, RMSE"
    assert result.output.splitlines()[-2].startswith(last)
    (log,) = Path("logs").rglob("metrics.csv")
    rows = csv.DictReader(log.read_text("utf-8").splitlines())
    assert {row["epoch"] for row in rows} == {"0", "1"}


def test_trains_and_evaluates_on_fragments(data: Path) -> None:
    result = train("--resize-mode", "fragments", "--fragments", 2, "-o", "out.pt")
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(Path("out.pt"))
    assert checkpoint.preprocessing == Preprocessing(64, 64, "fragments", fragments=2)
    found = evaluate_checkpoint(["--ckpt", "out.pt", "--data", "val.csv"])
    assert f"{checkpoint.metrics['mae']:.2f}" in found
    refused = train("--fragments", 2)
    assert refused.exit_code == 2
    assert "fragments (2) are of resize_mode 'fragments', not of 'squash'" in refused.output


def evaluate_checkpoint(arguments: list[str]) -> str:
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_says_that_nothing_was_learnt(data: Path) -> None:
    result = train("--lr", 1e-9)
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch")]
    assert [" (constant 9.000)  bin accuracy" in line for line in lines] == [True, True]
    assert "Warning: the model is no better than a constant: its validation MAE is" in result.stderr
    assert sorted(path.name for path in Path("checkpoint.run").iterdir()) == [
        "logs",
        "results.csv",
        "results.png",
        "run.toml",
    ]


def test_seed_repeats_the_weights(data: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train("-o", f"{name}.pt", "--seed", seed).exit_code == 0
    a, b, c = (load_checkpoint(Path(f"{n}.pt")).model.image_encoder.state_dict() for n in "abc")
    assert all(torch.equal(b[name], tensor) for name, tensor in a.items())
    assert not torch.equal(c["conv1.weight"], a["conv1.weight"])


def test_gelu_overrides_the_backbone(data: Path) -> None:
    assert train("--gelu").exit_code == 0
    assert load_checkpoint(Path("checkpoint.pt")).model.config.clip["quick_gelu"] is False


@pytest.mark.parametrize(
    ("args", "changed", "message"),
    [
        ((), {"train": "no_label.csv"}, "no_label.csv: lacks the column(s) ['label']"),
        ((), {"val": "far.csv"}, "far.csv line 2: the label 31 is outside the task's range"),
        ((), {"train": "gone.csv"}, "gone.csv: cannot read this CSV file"),
        ((), {"val": "absent.csv"}, "absent.csv: 1 of 1 images do not exist, first no.png"),
        ((), {"train": "broken.csv"}, "broken.png: not an image that Pillow can read"),
        (("--root", "elsewhere"), {}, "train.csv: 10 of 10 images do not exist"),
        ((), {"task": "agee"}, "unknown task 'agee'; presets are adience, aesthetics, age"),
        ((), {"task": "bad.toml"}, "bad.toml: not valid TOML"),
        (("-o", "train.csv/out.pt"), {}, "train.csv/out.pt: cannot write there (Not a directory)"),
        (("-o", "out.onnx"), {}, "out.onnx: the name must end in .pt or .safetensors"),
        (("-o", "out"), {}, "out: the name must end in .pt or .safetensors"),
        (("--pretrained", "train.csv"), {}, "train.csv: is a table or list, not weights; give --p"),
        ((), {"backbone": "ViT-B-33"}, "unknown backbone 'ViT-B-33'"),
        ((), {"backbone": "wide.json"}, "rectangular image size [32, 64] are not supported"),
        (("--pretrained", "opneai"), {}, "'opneai' is neither a file nor a tag"),
        (("--resize", 16), {}, "crop (32) must be between 1 and resize (16)"),
        (("--lr-image", 1e30), {}, "training diverged"),
    ],
)
def test_bad_input_is_one_sentence(
    data: Path, args: tuple[object, ...], changed: dict[str, str], message: str
) -> None:
    files = {
        "no_label.csv": "path,age\ntrain/0.png,1\n",
        "far.csv": "path,label\ntrain/0.png,31\n",
        "absent.csv": "path,label\nno.png,1\n",
        "broken.csv": "path,label\nbroken.png,1\n",
        "broken.png": "no image",
        "bad.toml": "name =",
        "wide.json": json.dumps(TOWERS["vit"] | {"vision_cfg": VIT | {"image_size": [32, 64]}}),
    }
    for name, content in files.items():
        Path(name).write_text(content, "utf-8")
    result = train(*args, **changed)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert "Traceback" not in result.output
    _, _, error = result.output.rpartition("Error: ")  # after the report on the data, or epochs
    assert message in error
    assert len(error.splitlines()) == (3 if "broken.csv" in changed.values() else 1)
    assert not list(data.rglob("*.pt"))


@pytest.mark.parametrize("module", ["torch", "open_clip", "pytorch_lightning"])
def test_missing_extra_names_the_command(
    data: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = train()
    assert result.exit_code == 2
    expected = f"Error: {module} is not installed; install with: pip install 'numclip[train]'\n"
    assert result.output == expected


def test_version_and_flags() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    result = train("--epochs", 0)
    assert (result.exit_code, "--epochs" in result.output) == (2, True)
