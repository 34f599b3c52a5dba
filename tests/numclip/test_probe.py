"""The linear probe: exact leave-one-out, the command without an epoch, and as a baseline."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from numclip.checkpoint import load_checkpoint
from numclip.cli.train import main
from numclip.data.samples import Sample
from numclip.evaluation.predictions import predictions_of_checkpoint
from numclip.evaluation.quantiles import factor_of
from numclip.model.backbone import build_clip, image_config
from numclip.model.heads import Probe
from numclip.training.probe import PENALTIES, ProbeFit, logistic_spread, ridge
from tests.numclip.tiny import TASK, TOWERS, spec_of, tiny_model, write_photos

RNG = np.random.default_rng(0)


def made(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    features = RNG.normal(size=(count, width)) * RNG.uniform(0.1, 10, width) + 3
    labels = features @ RNG.normal(size=width) + RNG.normal(size=count) * 5
    return torch.tensor(features), torch.tensor(labels)


def by_normal_equations(
    x: np.ndarray, y: np.ndarray, deviation: np.ndarray, penalty: float
) -> tuple[np.ndarray, float]:
    """Fit a ridge regression with an intercept by the textbook formula; deviations are given."""
    mean = x.mean(0)
    z = (x - mean) / deviation
    weight = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()))
    weight = weight / deviation
    return weight, float(y.mean() - mean @ weight)


@pytest.mark.parametrize(("count", "width"), [(30, 4), (12, 40), (9, 9)])
def test_leave_one_out_equals_leaving_one_out(count: int, width: int) -> None:
    features, labels = made(count, width)
    x, y = features.numpy(), labels.numpy()
    deviation = x.std(0)
    means = {}
    for penalty in PENALTIES[8:33:6]:
        errors = []
        for i in range(count):
            rest = np.arange(count) != i
            weight, intercept = by_normal_equations(x[rest], y[rest], deviation, penalty * count)
            errors.append(y[i] - x[i] @ weight - intercept)
        found = ridge(features, labels, [penalty])
        np.testing.assert_allclose(found.errors, errors, rtol=1e-6, atol=1e-8)
        weight, intercept = by_normal_equations(x, y, deviation, penalty * count)
        np.testing.assert_allclose(found.weight, weight, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.predict(features), x @ weight + intercept, rtol=1e-6)
        means[penalty] = float(np.square(errors).mean())
        assert found.mae == pytest.approx(np.abs(errors).mean())
    assert ridge(features, labels, list(means)).penalty == min(means, key=means.__getitem__)


@pytest.mark.parametrize(("count", "width"), [(30, 4), (12, 40)])
def test_with_groups_the_penalty_is_the_one_for_new_groups(count: int, width: int) -> None:
    features, labels = made(count, width)
    x, y = features.numpy(), labels.numpy()
    groups = [f"g{i % 4}" for i in range(count)]
    means = {}
    for penalty in PENALTIES[8:33:6]:
        errors = np.empty(count)
        for name in set(groups):
            out = np.array([group == name for group in groups])
            weight, intercept = by_normal_equations(x[~out], y[~out], x.std(0), penalty * count)
            errors[out] = y[out] - x[out] @ weight - intercept
        found = ridge(features, labels, [penalty], groups)
        np.testing.assert_allclose(found.errors, errors, rtol=1e-6, atol=1e-8)
        assert found.groups == 4
        means[penalty] = float(np.square(errors).mean())
    best = min(means, key=means.__getitem__)
    assert ridge(features, labels, list(means), groups).penalty == best
    single = ridge(features, labels)
    for none in (["a"] * count, ["", *["b"] * (count - 1)], []):
        torch.testing.assert_close(ridge(features, labels, groups=none).errors, single.errors)


def test_unit_and_scale_of_features_do_not_matter() -> None:
    features, labels = made(40, 6)
    first, second = ridge(features, labels), ridge(features * 1e-4 + 7, labels * 1000)
    assert first.penalty == second.penalty
    torch.testing.assert_close(first.errors * 1000, second.errors, rtol=1e-6, atol=1e-6)


def test_constant_features_and_labels() -> None:
    features, labels = made(20, 3)
    features[:, 1] = 5.0
    found = ridge(features, labels)
    assert found.weight[1] == 0
    assert found.errors.isfinite().all()
    same = ridge(features, torch.full((20,), 3.0))
    torch.testing.assert_close(same.predict(features), torch.full((20,), 3.0).double())
    assert logistic_spread(same.errors, TASK) == pytest.approx(30e-6)
    few = ridge(features[:2], labels[:2])
    assert few.weight.isfinite().all()


def test_spread_has_the_mean_size_of_the_errors() -> None:
    uniform = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logistic = 3 * (uniform / (1 - uniform)).log()
    assert logistic_spread(logistic, TASK) == pytest.approx(3, rel=0.01)
    assert logistic_spread(torch.tensor([1.0, -1.0]), TASK) == pytest.approx(0.5 / math.log(2))


def samples(folder: Path, name: str, count: int) -> list[Sample]:
    return write_photos(folder, name, count)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_head_predicts_what_the_line_does(tmp_path: Path, offset: float) -> None:
    model = tiny_model(
        clip=image_config(TOWERS["vit"]), head="probe", task=replace(TASK, label_offset=offset)
    )
    train = [replace(s, label=s.label + offset) for s in samples(tmp_path, "train", 30)]
    val = [replace(s, label=s.label + offset) for s in samples(tmp_path, "val", 7)]
    fit = ProbeFit(model, train, val, spec_of("vit"))
    line = fit.start()
    assert "linear probe: leave-one-out MAE" in line
    assert "on 30 training images" in line
    assert fit.metrics()["mae"] == pytest.approx(fit.mae(), rel=1e-4)
    assert fit.mae() < 4  # half of the constant's: brightness is easy


def test_training_groups_are_seen_by_a_line_without_them(tmp_path: Path) -> None:
    task = replace(TASK, label_offset=5.0)
    model = tiny_model(clip=image_config(TOWERS["vit"]), head="probe", task=task)
    drawn = samples(tmp_path, "train", 30)
    train = [replace(s, label=s.label + 5, group=f"g{i % 4}") for i, s in enumerate(drawn)]
    fit = ProbeFit(model, train, train[:3], spec_of("vit"))
    fit.start()
    found, (features, labels, _) = fit.left_out(), fit._features(train)
    assert found is not None
    x, y = features.double().numpy(), labels.double().numpy()
    np.testing.assert_allclose(found.labels, y + 5, rtol=1e-6)
    assert found.groups == tuple(s.group for s in train)
    for name in set(found.groups):
        out = np.array(found.groups) == name
        x_rest, y_rest, penalty = x[~out], y[~out], fit.ridge.penalty * 30
        weight, intercept = by_normal_equations(x_rest, y_rest, x.std(0), penalty)
        values = (x[out] @ weight + intercept).clip(TASK.bin_edges[0], TASK.bin_edges[-1]) + 5
        np.testing.assert_allclose(found.values[out], values, rtol=1e-4)
    # a model whose line gives these numbers has these logits
    assert isinstance(model.regressor, Probe)
    model.regressor.set_line(torch.zeros(x.shape[1]), float(found.values[0]) - 5, 1.0)
    spread = logistic_spread(fit.ridge.errors, task)
    model.regressor.log_spread.data.fill_(math.log(spread))
    logits = model.regressor.readout(features[:1]).logits
    np.testing.assert_allclose(found.logits[0], logits.detach().numpy()[0], rtol=1e-3)
    alone = [replace(s, group="") for s in train]
    assert ProbeFit(model, alone, train[:3], spec_of("vit")).left_out() is None


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 24), ("val", 12)):
        write_photos(tmp_path, name, count)
    lines = (f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items())
    (tmp_path / "task.toml").write_text("\n".join(lines), "utf-8")
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    torch.manual_seed(0)
    torch.save(build_clip(TOWERS["vit"]).state_dict(), tmp_path / "clip.pt")
    given = "--train train.csv --val val.csv --task task.toml --workers 0 --backbone tiny.json"
    return [*given.split(), "--pretrained", "clip.pt", "--gelu"]


def test_command_fits_without_an_epoch(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--head", "probe"])
    assert result.exit_code == 0, result.output
    assert "linear probe: leave-one-out MAE" in result.output
    assert "epoch" not in result.output
    assert "bounded regressor" not in result.output  # a probe has none
    assert "validation: all 12 images fit the intervals" in result.output
    checkpoint = load_checkpoint(Path("checkpoint.pt"))
    assert set(checkpoint.model.state_dict()) > {"regressor.fc.weight", "regressor.log_spread"}
    assert "text_cfg" not in checkpoint.model.config.clip
    assert checkpoint.calibration is not None
    val = [Sample(Path(f"val/{i}.png"), 30 * i / 11) for i in range(12)]
    found = predictions_of_checkpoint(checkpoint, val)
    mae = float(np.abs(found.values - found.labels).mean())
    assert checkpoint.metrics["mae"] == pytest.approx(mae)
    assert mae < 4


def test_training_images_fit_the_intervals_of_new_groups(command: list[str]) -> None:
    for name, count in (("train", 24), ("val", 12)):
        rows = Path(f"{name}.csv").read_text("utf-8").splitlines()
        grouped = [f"{row},{name}{i % (count // 3)}" for i, row in enumerate(rows[1:])]
        Path(f"{name}.csv").write_text("\n".join([rows[0] + ",person", *grouped]), "utf-8")
    grouped_command = [*command, "--head", "probe", "--group-column", "person"]
    result = CliRunner().invoke(main, grouped_command)
    assert result.exit_code == 0, result.output
    assert "beside those of training, each as seen by a line fitted without" in result.output
    calibration = load_checkpoint(Path("checkpoint.pt")).calibration
    assert calibration is not None
    assert (calibration.images, calibration.groups) == (36, 12)
    result = CliRunner().invoke(main, [*grouped_command, "--calibration-share", "0.5"])
    assert result.exit_code == 0, result.output
    kept = load_checkpoint(Path("checkpoint.pt")).calibration
    assert kept is not None
    assert kept.images < 12  # as asked for: validation images only


@pytest.mark.parametrize(
    ("flags", "chose"), [((), False), (("--tune", "lora", "--epochs", "2"), True)]
)
def test_images_that_chose_the_epoch_have_the_wider_quantile(
    command: list[str], flags: tuple[str, ...], chose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def spy(*args: Any, chose_epoch: bool, **more: Any) -> float:
        asked.append(chose_epoch)
        return factor_of(*args, chose_epoch=chose_epoch, **more)

    monkeypatch.setattr("numclip.evaluation.calibration.factor_of", spy)
    result = CliRunner().invoke(main, [*command, "--head", "probe", *flags])
    assert result.exit_code == 0, result.output
    assert set(asked) == {chose}


def test_training_starts_from_the_line(command: list[str]) -> None:
    fitted = CliRunner().invoke(main, [*command, "--head", "probe", "-o", "a.pt"])
    tuned = ["--head", "probe", "--tune", "lora", "--epochs", "1", "--lr", "1e-9"]
    result = CliRunner().invoke(main, [*command, *tuned, "-o", "b.pt"])
    assert (fitted.exit_code, result.exit_code) == (0, 0), result.output
    assert "epoch   1/1" in result.output
    first, second = (load_checkpoint(Path(name)) for name in ("a.pt", "b.pt"))
    assert first.metrics["mae"] == pytest.approx(second.metrics["mae"], abs=1e-3)
    assert first.model.state_dict().keys() == second.model.state_dict().keys()


def test_baseline_stands_beside_each_epoch(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--epochs", "2"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert all("linear probe " in line for line in lines)
    without = CliRunner().invoke(main, [*command, "--epochs", "1", "--skip-probe"])
    assert without.exit_code == 0, without.output
    assert "linear probe" not in without.output
