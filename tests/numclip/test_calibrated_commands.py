"""`--val` of `numclip-zeroshot` and `numclip-convert`: intervals for models not trained here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click import Command
from click.testing import CliRunner, Result

from numclip.checkpoint import load_checkpoint, save_checkpoint
from numclip.cli import convert, zeroshot
from numclip.data.readers import read_samples
from numclip.evaluation.predictions import predictions_of_checkpoint
from numclip.model.backbone import build_clip
from numclip_export import ExportOptions, run_export
from numclip_export.images import verify_images
from numclip_runtime import load
from tests.numclip.released_files import State, lightning, official_state, write
from tests.numclip.tiny import TASK, TOWERS, write_photos

COUNT = 60  # images; 55 of them, ceil(61 * 0.9), are what a 90 % interval must hold
COMMANDS = {
    "zeroshot": (
        zeroshot.main,
        "--task task.toml --backbone tiny.json --pretrained weights.pt -o out.pt",
    ),
    "convert": (convert.main, "a.ckpt --task age --base base.pt --label-offset 0 -o out.pt"),
    "recalibrate": (convert.main, "own.pt -o out.pt"),
}


@pytest.fixture
def folder(base: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: all files of COMMANDS, and labelled photos val.csv."""
    monkeypatch.chdir(tmp_path)
    torch.save(base, "base.pt")
    write(Path("a.ckpt"), lightning(official_state(base)))
    torch.manual_seed(0)
    torch.save(build_clip(TOWERS["vit"]).state_dict(), "weights.pt")
    Path("tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    lines = (f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items())
    Path("task.toml").write_text("\n".join(lines), "utf-8")
    write_photos(tmp_path, "val", COUNT)
    return tmp_path


def run(name: str, flags: str) -> Result:
    command: Command
    command, words = COMMANDS[name]
    if (
        name == "recalibrate" and not Path("own.pt").exists()
    ):  # a checkpoint of our own, calibrated on other images before
        write_photos(Path(), "few", 9)
        few = COMMANDS["zeroshot"][1].replace("out.pt", "own.pt") + " --val few.csv"
        assert CliRunner().invoke(zeroshot.main, few.split()).exit_code == 0
        own = Path("own.pt")
        save_checkpoint(own, replace(load_checkpoint(own), metrics={"mae": 1.5}))
    return CliRunner().invoke(command, [*words.split(), *flags.split()])


def calibrated_file(name: str, val: Path, root: Path | None) -> Path:
    """Return the checkpoint that a command wrote, once all that the file says is checked."""
    result = run(name, f"--val {val}" + (f" --root {root}" if root else ""))
    assert result.exit_code == 0, result.output
    assert f"calibrated on {COUNT} images: temperature " in result.output
    assert "90% interval typically ±" in result.output
    checkpoint = load_checkpoint(Path("out.pt"))
    found = predictions_of_checkpoint(checkpoint, read_samples(val, checkpoint.task, root))
    ends = found.intervals(0.9)
    inside = (ends[:, 0] <= found.labels + 1e-9) & (found.labels <= ends[:, 1] + 1e-9)
    assert inside.sum() == 55
    content = torch.load("out.pt", weights_only=True)
    assert content["validation_csv"] == str(val), "relative to the checkpoint"
    assert content["validation_root"] == (str(root) if root else None)
    assert content["metrics"] == {}, "those of other images"
    assert verify_images(checkpoint).source == "validation"
    return Path("out.pt").rename(f"{root is not None}.pt")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_gives_every_number_an_interval(folder: Path, name: str) -> None:
    beside = load_checkpoint(calibrated_file(name, Path("val.csv"), None))
    Path("lists").mkdir()
    val = Path("val.csv").rename("lists/val.csv")
    rooted = calibrated_file(name, val, Path())
    checkpoint = load_checkpoint(rooted)
    assert checkpoint.metadata == beside.metadata, "one export stands for both"

    exported = run_export(ExportOptions(rooted, Path("out.onnx")))
    assert exported.parity is not None
    assert exported.parity.source == "validation"
    samples = read_samples(val, checkpoint.task, Path())
    ends = predictions_of_checkpoint(checkpoint, samples).intervals(0.9)
    with load("out.onnx") as predictor:
        interval = predictor.predict(samples[7].path).interval
    assert interval == pytest.approx(ends[7].tolist(), abs=1e-2)


@pytest.mark.parametrize(("persons", "words"), [(12, "new groups"), (6, "only 86% are promised")])
@pytest.mark.parametrize("name", ["zeroshot", "recalibrate"])
def test_intervals_of_new_persons(folder: Path, name: str, persons: int, words: str) -> None:
    head, *rows = Path("val.csv").read_text("utf-8").splitlines()
    grouped = [f"{row},p{i % persons}" for i, row in enumerate(rows)]
    Path("val.csv").write_text("\n".join([f"{head},person", *grouped]), "utf-8")
    result = run(name, "--val val.csv --group-column person")
    assert result.exit_code == 0, result.output
    assert f"calibrated on {COUNT} images of {persons} groups: temperature " in result.output
    assert words in result.output
    calibration = load_checkpoint(Path("out.pt")).calibration
    assert calibration is not None
    assert calibration.groups == persons


def test_without_it_there_are_no_intervals(folder: Path) -> None:
    for name in ("zeroshot", "convert"):
        assert "calibrated" not in run(name, "").output
        checkpoint = load_checkpoint(Path("out.pt"))
        assert (checkpoint.calibration, checkpoint.validation_csv) == (None, None)


def test_rewriting_keeps_what_was_calibrated(folder: Path) -> None:
    result = run("recalibrate", "")
    assert result.exit_code == 0, result.output
    own, rewritten = (load_checkpoint(Path(name)) for name in ("own.pt", "out.pt"))
    assert rewritten.calibration == own.calibration is not None
    assert rewritten.validation_csv == str(folder / "few.csv")
    assert rewritten.metrics == {"mae": 1.5}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--val gone.csv", "gone.csv: cannot read this CSV file"),
        ("--val far.csv", "far.csv line 2: the label 300 is outside the task's range"),
        ("--val broken.csv", "broken.png: not an image that Pillow can read"),
        ("--val val.csv --root nowhere", f"{COUNT} of {COUNT} images do not exist"),
        ("--root .", "--root is where the image paths of --val start; give --val"),
        ("--group-column person", "--group-column is a column of --val; give --val"),
        ("--val val.csv --group-column person", "val.csv: lacks the column(s) ['person']"),
    ],
)
@pytest.mark.parametrize("name", ["zeroshot", "convert"])
def test_bad_data_leave_no_file(folder: Path, name: str, flags: str, message: str) -> None:
    Path("far.csv").write_text("path,label\nval/0.png,300\n", "utf-8")
    Path("broken.csv").write_text("path,label\nval/0.png,1\nbroken.png,1\n", "utf-8")
    Path("broken.png").write_bytes(b"no image")
    before = {path.name for path in folder.iterdir()}
    result = run(name, flags)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert {path.name for path in folder.iterdir()} == before
