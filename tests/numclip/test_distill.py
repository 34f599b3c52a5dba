"""`numclip-distill`: real runs with a teacher that has learnt, and the trades that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from numclip.checkpoint import load_checkpoint, save_checkpoint
from numclip.cli.distill import main
from numclip.data.readers import read_samples
from numclip.distillation.distill_options import DistillOptions
from numclip.distillation.distillation import distill
from numclip.evaluation.calibration import calibrate
from numclip.evaluation.metrics import constant_mae
from numclip.evaluation.predictions import predictions_of_checkpoint
from numclip.model.heads import Distribution
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.fit import fit
from tests.numclip.tiny import TASK, TEXT, TOWERS, VIT, spec_of, tiny_model, write_photos
from tests.runtime.conftest import SEPARATE

BIG = {**TOWERS["vit"], "vision_cfg": {**VIT, "layers": 2, "width": 64}}
RATES = LearningRates(*[3e-3] * 6)
TRAINING = TrainConfig(
    epochs=16,
    batch_size=8,
    rates=RATES,
    optimizer="adamw",
    schedule="cosine",
    loss_mode="corrected",
    workers=0,
)
SHORT = ("--epochs", 2, "--batch-size", 16, "--workers", 0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock: milliseconds of teacher and student, which a test may change."""
    times = [2.0, 1.0]
    monkeypatch.setattr("numclip.distillation.trade.lower_quartiles_ms", lambda runs: times)
    return times


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a teacher that has learnt and is calibrated, images, and a network."""
    home = tmp_path_factory.mktemp("lesson")
    train, val = write_photos(home, "train", 48), write_photos(home, "val", 47)
    write_photos(home, "test", 20)
    (home / "bare").mkdir()  # pictures at two depths, without labels
    shutil.copytree(home / "train", home / "bare" / "deep")
    shutil.copytree(home / "val", home / "bare", dirs_exist_ok=True)
    from numclip.checkpoint import Checkpoint

    model = tiny_model(clip=BIG, vectors="prototypes", regressor="bounded")
    best = fit(model, train, val, spec_of("vit"), TRAINING)
    assert best["mae"] < constant_mae(np.array([s.label for s in val])) / 2
    teacher, _ = calibrate(Checkpoint(model, spec_of("vit"), best), val)
    save_checkpoint(home / "big.pt", teacher)
    save_checkpoint(home / "uncalibrated.pt", replace(teacher, calibration=None, metrics={}))
    (home / "small.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    return home


@pytest.fixture
def home(lesson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, as the working directory."""
    shutil.copytree(lesson, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words: object) -> tuple[int, str, str]:
    done = CliRunner(**SEPARATE).invoke(main, [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def values_of(file: Path, table: Path) -> np.ndarray[Any, Any]:
    found = predictions_of_checkpoint(load_checkpoint(file), read_samples(table, TASK))
    return found.values


def test_without_labels(home: Path) -> None:
    weights = load_checkpoint(Path("big.pt")).model.state_dict()
    options = DistillOptions(
        Path("big.pt"), "small.json", images=Path("bare"), training=replace(TRAINING, epochs=10)
    )
    result = distill(options)
    student, report = load_checkpoint(Path("student.pt")), json.loads(options.report.read_text())
    assert student.task == load_checkpoint(Path("big.pt")).task
    assert student.model.config.vectors == "prototypes"
    assert set(student.metrics) == {
        *("difference_to_teacher", "rms_difference_to_teacher", "bins_as_teacher")
    }
    # it has learnt the teacher's numbers, on images that neither has seen
    told, said = (
        values_of(Path("big.pt"), Path("test.csv")),
        values_of(options.output, Path("test.csv")),
    )
    assert np.abs(told - said).mean() < constant_mae(told) / 3
    loss = report["loss"]
    assert loss["images"] == report["images"]["held_out"] == 19
    assert loss["mae_teacher"] is loss["mae_student"] is None
    assert loss["lost"] == loss["mean_difference"] <= loss["p95_difference"]
    assert loss["limit"] == pytest.approx(load_checkpoint(Path("big.pt")).metrics["mae"] / 2)
    before, after = report["teacher"], report["student"]
    assert after["parameters"] < before["parameters"]
    assert after["gmacs"] < before["gmacs"]
    assert report["time"]["speedup"] == 2
    # 19 images fit the part of 80 %, the 90 % ones need as many for their 95 % of differences
    assert student.calibration is not None
    assert student.calibration.coverages == (0.5, 0.8, 0.9)
    assert result.calibration.endswith("without labels")
    after_it = load_checkpoint(Path("big.pt")).model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in after_it.items())


def test_with_labels(home: Path) -> None:
    code, out, err = invoke(
        *("big.pt", "train.csv", "--student", "small.json", "--val", "val.csv"),
        *("--test", "test.csv", "--max-loss", 30, "-o", "out/s.pt", *SHORT),
    )
    assert code == 0, err
    report = json.loads(Path("out/s.distill.json").read_text("utf-8"))
    labels = np.array([sample.label for sample in read_samples(Path("test.csv"), TASK)])
    for name, file in (("mae_teacher", "big.pt"), ("mae_student", "out/s.pt")):
        mae = np.abs(values_of(Path(file), Path("test.csv")) - labels).mean()
        assert report["loss"][name] == pytest.approx(mae, abs=1e-4)
    assert report["loss"]["lost"] == pytest.approx(
        report["loss"]["mae_student"] - report["loss"]["mae_teacher"]
    )
    assert report["intervals"]["from"] == "labels"
    assert [row["stated"] for row in report["intervals"]["rows"]] == [0.5, 0.8, 0.9, 0.95]
    assert report["images"] == {
        **{"train": 48, "train_labelled": 48, "held_out": 47, "held_out_labelled": True},
        "test": 20,
    }
    student = load_checkpoint(Path("out/s.pt"))
    assert student.validation_csv == str((home / "val.csv").resolve())
    assert student.metrics["mae"] > 0
    assert "MAE, points" in out
    assert "2.00 times as fast" in out
    assert not Path("out/s.run/last.ckpt").exists()
    assert Path("out/s.run/results.csv").is_file()
    # what the run was, for a repetition
    text = Path("out/s.run/run.toml").read_text("utf-8")
    assert 'teacher = "' in text
    assert "epochs = 2" in text


def test_the_page_names_every_field_of_the_report(home: Path) -> None:
    words = ("--test", "test.csv", "--max-loss", 30, *SHORT)
    assert invoke("big.pt", "bare", "--student", "small.json", *words)[0] == 0
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    section = page.partition("## Distillation report")[2].partition("\n## ")[0]
    report = json.loads(Path("student.distill.json").read_text("utf-8"))
    parts = [report[key] for key in ("teacher", "student", "time", "images", "loss", "intervals")]
    named = {*report, *(key for part in parts for key in part), *report["intervals"]["rows"][0]}
    assert {key for key in named - {"rows"} if f"`{key}`" not in section} == set()


def test_labels_and_bare_images_together(home: Path) -> None:
    words = ("--images", "bare", "--data", "train.csv", "--root", ".", "--max-loss", 30)
    code, out, err = invoke("big.pt", "--student", "small.json", *words, *SHORT)
    assert code == 0, err
    assert "train: 134 images, 39 with labels, 95 without" in out
    assert "held out: 9 images, with labels" in out
    assert "the same content" in err  # of another name
    assert Path("student.val.csv").is_file()
    assert values_of(Path("student.pt"), Path("student.val.csv")).shape == (9,)
    # images that are labelled ones, too, count as these
    both = ("--images", "train", "--data", "train.csv", "--max-loss", 30, "-o", "b.pt")
    code, out, err = invoke("big.pt", "--student", "small.json", *both, *SHORT)
    assert "train: 39 images, 39 with labels\n" in out, err


def test_too_much_lost_leaves_only_the_run(home: Path) -> None:
    words = ("big.pt", "bare", "--student", "small.json", *SHORT)
    before = set(Path().iterdir())
    code, out, err = invoke(*words, "--max-loss", 0)
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "No trade: the student loses too much: the mean difference to the teacher is "
    )
    assert "0.000 are allowed (--max-loss); student.pt is not written" in err
    assert set(Path().iterdir()) - before == {Path("student.run")}
    assert {path.name for path in Path("student.run").iterdir()} >= {"last.ckpt", "best.ckpt"}
    code, _, err = invoke(*words, "--max-loss", 30)
    assert code == 2
    assert "holds an unfinished run" in err
    # the same student, without training again
    code, again, err = invoke(*words, "--max-loss", 30, "--resume")
    assert code == 0, err
    assert "epoch   2/2" in out
    assert "epoch   " not in again
    assert Path("student.pt").is_file()
    assert not Path("student.run/last.ckpt").exists()


def test_no_faster_is_refused_before_training(home: Path, clock: list[float]) -> None:
    clock[:] = [1.0, 1.0]
    before = set(Path().iterdir())
    code, _, err = invoke("big.pt", "bare", "--student", "small.json", *SHORT)
    assert code == 1
    assert err.startswith("No trade: the student is no faster than its teacher: 1 ms an image (")
    assert set(Path().iterdir()) == before


def test_a_checkpoint_is_a_student(home: Path) -> None:
    from numclip.checkpoint import Checkpoint

    start = tiny_model(vectors="prototypes", seed=1)
    save_checkpoint(Path("small.pt"), Checkpoint(start, spec_of("vit")))
    words = ("big.pt", "bare", "--student", "small.pt", "--max-loss", 30, *SHORT)
    code, _, err = invoke(*words, "--lr", 1e-9)
    assert code == 0, err
    learnt = load_checkpoint(Path("student.pt")).model.state_dict()
    close = [torch.allclose(learnt[k], v, atol=1e-6) for k, v in start.state_dict().items()]
    assert all(close)
    code, _, err = invoke(*words, "--head", "probe", "--restart")
    assert code == 2
    assert "--head has no effect with a student that is a checkpoint" in err
    other = replace(TASK, bin_edges=(0, 5, 20, 30), context="here is")
    save_checkpoint(Path("small.pt"), Checkpoint(tiny_model(task=other), spec_of("vit")))
    code, _, err = invoke(*words)
    assert (code, err) == (
        2,
        "Error: small.pt: is of another task than the teacher (bin_edges, context); give a "
        "checkpoint of the same task, or a backbone.\n",
    )


def test_a_teacher_without_intervals(home: Path) -> None:
    words = ("uncalibrated.pt", "bare", "--student", "small.json", *SHORT, "--max-loss", 30)
    code, out, err = invoke(*words)
    assert code == 0, err
    assert "no intervals: there are no labels, and the teacher has none" in out
    assert load_checkpoint(Path("student.pt")).calibration is None


@pytest.mark.parametrize("head", ["distribution", "probe"])
def test_heads(head: Any, home: Path) -> None:
    words = ("big.pt", "bare", "--student", "small.json", *SHORT, "--max-loss", 30)
    assert invoke(*words, "--head", head)[0] == 0
    student = load_checkpoint(Path("student.pt"))
    assert student.model.config.head == head
    assert isinstance(student.model.regressor, Distribution) == (head == "distribution")
    # and of its own kind, with labels
    code, _, err = invoke(
        *("student.pt", "train.csv", "--student", "small.json", "--max-loss", 30, *SHORT),
        *("--label-weight", 1, "-o", "second.pt"),
    )
    assert code == 0, err
    assert load_checkpoint(Path("second.pt")).model.config.head == head


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["big.pt", "bare"], "Missing option '--student'"),
        (["--student", "small.json"], "Missing option '--teacher'"),
        (["big.pt", "--student", "small.json"], "there is nothing to learn from: give --images"),
        (["big.pt", "empty", "--student", "small.json"], "empty: no images in this folder"),
        (["big.pt", "none", "--student", "small.json"], "none: no such folder"),
        (["big.pt", "--images", "train.csv", "--student", "small.json"], "train.csv: is a file"),
        (["big.pt", "one", "--student", "small.json"], "one: 1 image cannot be divided"),
        (["none.pt", "bare", "--student", "small.json"], "none.pt: no such file"),
        (["big.onnx", "bare", "--student", "small.json"], "big.onnx: is an exported model"),
        (["big.pt", "bare", "--student", "none.json"], "none.json: cannot read this conf"),
        (["big.pt", "bare", "--student", "none.pt"], "none.pt: no such file"),
        (["big.pt", "bare", "--student", "VIT-B-99"], "unknown backbone 'VIT-B-99'"),
        (["big.pt", "bare", "--student", "small.json", "-o", "big.pt"], "big.pt: is also an input"),
        (["big.pt", "bare", "--student", "small.json", "-o", "x.onnx"], "must end in .pt or"),
        (["big.pt", "bare", "--student", "small.json", "--resume"], "holds no unfinished run"),
        (["big.pt", "bare", "more", "--student", "small.json"], "unexpected extra argument"),
    ],
)
def test_wrong_use_is_one_sentence(words: Sequence[str], sentence: str, home: Path) -> None:
    Path("empty").mkdir()
    Path("one").mkdir()
    shutil.copy(next(Path("train").iterdir()), "one")
    Path("big.onnx").write_bytes(b"\x08\x08")
    before = set(Path().iterdir())
    code, _, err = invoke(*words)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert set(Path().iterdir()) == before


def test_torchrun_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = invoke("big.pt", "bare", "--student", "small.json")
    assert (code, err) == (
        2,
        "Error: a distillation runs in one process; start it without torchrun.\n",
    )


def test_text_towers_are_left_out(home: Path) -> None:
    assert "text_cfg" in TOWERS["vit"]
    assert TEXT["width"]  # the configuration has one
    options = DistillOptions(Path("big.pt"), "small.json", images=Path("bare"), max_loss=30)
    student = distill(replace(options, training=replace(TRAINING, epochs=1))).checkpoint
    assert not any(name.startswith("text_encoder") for name in student.model.state_dict())
