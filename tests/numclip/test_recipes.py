"""Recipes: the papers' sequences of learning rates, the choice by the start, and what they set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from numclip.cli.train import main
from numclip.data.prepare import DataConfig
from numclip.data.samples import Sample
from numclip.model.model_config import HeadKind
from numclip.tasks import load_task
from numclip.training.config import LearningRates, RegressionUnit, TrainConfig
from numclip.training.fit import fit
from numclip.training.optim import make_optimizer, rate_factor
from numclip.training.recipes import RecipeName, recipe_of
from numclip.training.run import TrainOptions
from numclip_runtime import Task
from tests.numclip.tiny import TASK, spec_of, tiny_model, write_photos

OFFICIAL = [  # epochs, epoch of the drop, rate of the context; the authors' default_*.yaml
    ("morph", 200, 60, 0.0),
    ("historical", 100, 60, 0.0),
    ("aesthetics", 100, 60, 1e-5),
]


@pytest.mark.parametrize(("name", "epochs", "drop", "context"), OFFICIAL)
def test_the_papers_learning_rates(
    name: RecipeName, epochs: int, drop: int, context: float
) -> None:
    """Each update has the rate that torch's MultiStepLR, stepped per epoch, gives it."""
    config = recipe_of(name, "openai").training
    parameter = torch.nn.Parameter(torch.zeros(1))
    official = torch.optim.SGD([parameter], lr=1e-5)
    schedule = torch.optim.lr_scheduler.MultiStepLR(official, milestones=[drop], gamma=0.1)
    per_epoch = 7
    wanted = []
    for _ in range(epochs):
        for _ in range(per_epoch):
            official.step()
            wanted.append(official.param_groups[0]["lr"])
        schedule.step()
    updates = config.epochs * per_epoch
    factors = [rate_factor(config, step, updates) for step in range(updates)]
    assert [1e-5 * factor for factor in factors] == pytest.approx(wanted, rel=1e-12)
    total = drop + 0.1 * (epochs - drop)  # 74 and 64 epochs at the full rate
    assert sum(factors) / per_epoch == pytest.approx(total)
    rates = LearningRates(
        image=1e-5, text=0, context=context, rank=1e-5, adapter=1e-5, regressor=1e-5, logit_scale=0
    )
    assert config.rates == rates
    assert type(make_optimizer(tiny_model(), config)).__name__ == "RAdamReleased"
    assert (config.batch_size, config.weight_decay, config.warmup_steps) == (32, 0, 0)
    assert (config.precision, config.loss_mode, config.seed) == ("16-mixed", "released", 114514)
    assert (config.regression_weight, config.regression_unit) == (1, "label")
    assert recipe_of(name, None).regressor == "released"


@pytest.mark.parametrize(("drop", "first"), [(None, 30), (0, 0), (1, 1), (60, 60), (100, 100)])
def test_drop_at(drop: int | None, first: int) -> None:
    config = TrainConfig(epochs=100, drop_at=drop)
    factors = [rate_factor(config, step, 300) for step in range(300)]
    assert factors == pytest.approx([1.0] * 3 * first + [0.1] * 3 * (100 - first))


def test_a_warmup_longer_than_the_run_ends_at_its_half() -> None:
    config = TrainConfig(schedule="constant", warmup_steps=100)
    assert [rate_factor(config, step, 8) for step in range(8)] == [0.25, 0.5, 0.75] + [1.0] * 5


def test_auto_is_chosen_by_the_start() -> None:
    assert recipe_of("auto", "openai") == recipe_of("finetune", None)
    assert recipe_of("auto", None) == recipe_of("scratch", "weights.pt")
    data = DataConfig(Path("a.csv"), val=Path("b.csv"))
    options = TrainOptions(TASK, data, pretrained="openai", regressor="released").resolved()
    assert options.training == recipe_of("finetune", None, "ViT-B-16").training
    assert options.regressor == "released"  # given, so not the recipe's
    own = TrainConfig(epochs=3)
    assert TrainOptions(TASK, data, training=own).resolved().training == own


@pytest.mark.parametrize(
    ("recipe", "task", "given", "offset"),
    [
        ("morph", load_task("age"), None, 1),  # the authors train on y - 1
        ("morph", replace(load_task("age"), label_offset=1), None, 1),  # not twice
        ("morph", load_task("age"), 0.0, 0),
        ("morph", TASK, None, 0),  # labels of another task may begin at 0
        ("aesthetics", load_task("aesthetics"), None, 1),
        ("historical", load_task("historical"), None, 1),
        ("auto", load_task("aesthetics"), None, 1),
        ("auto", load_task("age"), None, 0),
    ],
)
def test_label_offset(recipe: RecipeName, task: Task, given: float | None, offset: float) -> None:
    data = DataConfig(Path("a.csv"), val=Path("b.csv"))
    once = TrainOptions(task, data, recipe=recipe, label_offset=given).resolved()
    assert once.task.label_offset == once.resolved().task.label_offset == offset


@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_a_large_backbone_has_lower_rates(name: RecipeName) -> None:
    small, large = (recipe_of(name, None, net).training for net in ("a.json", "ViT-B-16"))
    assert large.rates.image < small.rates.image / 3
    assert replace(large, rates=small.rates) == small
    data = DataConfig(Path("a.csv"), val=Path("b.csv"))
    start = "openai" if name == "finetune" else None
    for backbone, training in (("a.json", small), ("ViT-B-16", large)):
        options = TrainOptions(TASK, data, backbone=backbone, pretrained=start)
        assert options.resolved().training == training


def test_a_convolutional_tower_by_name_learns_faster() -> None:
    tower, vit = "timm/mobilenetv2_100", "timm/vit_small_patch14_dinov2"
    assert recipe_of("finetune", "w", tower).training.rates.image == pytest.approx(3e-4)
    assert recipe_of("finetune", "w", vit) == recipe_of("finetune", "w", "ViT-B-16")
    assert recipe_of("finetune", "w", "resnet50") == recipe_of("finetune", "w", "ViT-B-16")
    data = DataConfig(Path("a.csv"), val=Path("b.csv"))
    cases: list[tuple[str, HeadKind, str]] = [
        (tower, "probe", "levels"),
        (tower, "distribution", "last"),
        (vit, "probe", "last"),
        ("timm/tf_efficientnet_b0.ns_jft_in1k", "probe", "levels"),
    ]
    for backbone, head, features in cases:
        options = TrainOptions(TASK, data, backbone=backbone, head=head).resolved()
        assert options.features == options.resolved().features == features
        given = replace(options, features="last" if features == "levels" else "levels")
        assert given.resolved().features == given.features


def test_the_papers_recipes_do_not_depend_on_the_backbone() -> None:
    assert recipe_of("morph", "openai", "ViT-L-14") == recipe_of("morph", None, "a.json")


def test_one_rate_scales_all() -> None:
    rates = recipe_of("scratch", None).training.rates
    half = rates.scaled(rates.image / 2)
    assert vars(half) == pytest.approx({name: rate / 2 for name, rate in vars(rates).items()})


def test_training_does_not_depend_on_the_unit_of_labels(tmp_path: Path) -> None:
    train, val = write_photos(tmp_path, "train", 16), write_photos(tmp_path, "val", 6)
    config = replace(recipe_of("scratch", None).training, epochs=2, batch_size=8, workers=0)

    def mae(factor: float, unit: RegressionUnit) -> float:
        def scaled(samples: list[Sample]) -> list[Sample]:
            return [replace(sample, label=factor * sample.label) for sample in samples]

        edges = tuple(factor * edge for edge in TASK.bin_edges)
        model = tiny_model(task=replace(TASK, bin_edges=edges), regressor="bounded")
        how = replace(config, regression_unit=unit)
        return fit(model, scaled(train), scaled(val), spec_of("vit"), how)["mae"] / factor

    grams, kilograms = mae(1024, "spread"), mae(1, "spread")  # powers of 2: no rounding
    assert grams == pytest.approx(kilograms, rel=1e-4)
    assert mae(1024, "label") != pytest.approx(mae(1, "label"), rel=1e-4)


def command(*args: object) -> Result:
    return CliRunner().invoke(main, ["--train", "a.csv", "--val", "b.csv", *map(str, args)])


def test_options_change_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainOptions] = []
    monkeypatch.setattr("numclip.cli.train.train", lambda options, **_: seen.append(options))
    base = recipe_of("scratch").training
    for args in (
        ("--epochs", 7),
        ("--lr", 1e-4, "--lr-rank", 0.5),
        ("--recipe", "morph", "--drop-at", 5, "--precision", "32-true"),
        ("--regression-weight", 0.1),
        ("--recipe", "finetune", "--seed", 3),
    ):
        assert command("--task", "age", "--backbone", "x.json", *args).exit_code == 0
    assert seen[0].training == replace(base, epochs=7)
    assert seen[1].training == replace(base, rates=replace(base.rates.scaled(1e-4), rank=0.5))
    morph = recipe_of("morph", None).training
    assert seen[2].training == replace(morph, drop_at=5, precision="32-true")
    assert (seen[2].data.seed, seen[2].resolved().task.label_offset) == (114514, 1)
    assert seen[3].training == replace(base, regression_weight=0.1, regression_unit="label")
    assert seen[4].training == replace(recipe_of("finetune").training, seed=3)
    assert seen[4].data.seed == 3
