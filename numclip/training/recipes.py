"""Recipes: how to train from pretrained weights, from none, or as the paper; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from numclip.model.architectures import is_convolutional
from numclip.model.model_config import HeadKind, RegressorForm, Tune
from numclip.training.config import LearningRates, TrainConfig
from numclip_runtime import Task

RecipeName = Literal["auto", "finetune", "scratch", "morph", "historical", "aesthetics"]


TUNING_GAIN = 10  # of the image rate, where a small part of a pretrained tower is tuned


@dataclass(frozen=True)
class Recipe:
    """What a recipe sets; whatever the user gives himself takes precedence."""

    training: TrainConfig
    regressor: RegressorForm = "released"
    starts_pretrained: bool = True  # its rates are for such a start
    # Rates for an architecture by name, which is wide and needs lower ones; None: the same
    large: LearningRates | None = None
    # Rates for a convolutional tower of timm by name; None: `large`
    convolutional: LearningRates | None = None
    # Label in files minus the model's number, by name of the preset that the recipe was made for
    # and that says otherwise. It replaces the task's own, it is not added to it.
    label_offsets: tuple[tuple[str, float], ...] = ()

    def label_offset(self, task: Task) -> float:
        """Return the label offset of a task under this recipe."""
        return dict(self.label_offsets).get(task.name, task.label_offset)


# Validation MAE over the constant's after 30 epochs of 256 pictures, counting dots and reading an
# angle, small ResNet: rate 3e-4 .78 and .73, 1e-3 .71 and .53, 2e-3 in batches of 16 .49 and .35;
# small ViT: rate 1e-3 .84 and .52, 2e-3 in batches of 16 .51 and .41.
_SCRATCH = TrainConfig(
    epochs=100,
    batch_size=16,  # twice as many updates as with 32; own data are often few
    rates=LearningRates(
        image=2e-3, text=2e-3, context=2e-3, rank=2e-3, adapter=2e-3, regressor=2e-3
    ),
    optimizer="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=50,
    loss_mode="corrected",
    regression_weight=4.0,
    regression_unit="spread",
)
# The same after 20 epochs of 200 pictures, from a ResNet trained to measure discs: image tower at
# 3e-5 .74 and .97, 3e-4 .65 and .52, 1e-3 .58 and .41.
_FINETUNE = replace(
    _SCRATCH,
    epochs=30,
    rates=LearningRates(image=1e-3, context=1e-3, rank=1e-3, adapter=1e-3, regressor=1e-3),
)
# The released code: lists whose labels begin at 1 are shifted to 0 (morph: ages, y - 1).
_PAPER = TrainConfig(
    epochs=100, optimizer="radam-released", drop_at=60, precision="16-mixed", seed=114514
)
RECIPES: dict[RecipeName, Recipe] = {
    # large: 1e-5 to 3e-5 are usual for CLIP's ViT-B; new parts learn fast beside them.
    # convolutional, validation MAE of MobileNetV2, distribution over prototypes: tomatoes,
    # 4 epochs: image tower at 3e-5 2.33, 1e-4 2.14, 3e-4 2.08, 1e-3 2.14; blood, 16 epochs: 3.39,
    # 3.24, 2.68
    "finetune": Recipe(
        _FINETUNE,
        "bounded",
        large=replace(_FINETUNE.rates, image=3e-5, context=1e-4, rank=1e-4),
        convolutional=replace(_FINETUNE.rates, image=3e-4),
    ),
    "scratch": Recipe(
        _SCRATCH, "bounded", starts_pretrained=False, large=_SCRATCH.rates.scaled(3e-4)
    ),
    "morph": Recipe(replace(_PAPER, epochs=200), label_offsets=(("age", 1.0),)),
    "historical": Recipe(_PAPER),
    "aesthetics": Recipe(replace(_PAPER, rates=LearningRates(context=1e-5))),
}


def recipe_of(
    name: RecipeName,
    pretrained: str | None = None,
    backbone: str = "network.json",
    head: HeadKind = "numclip",
    tune: Tune | None = None,
) -> Recipe:
    """Return a recipe.

    Args:
        name: "auto" is "finetune" where training starts from weights, else "scratch".
        pretrained: open_clip tag or weights file; None: random weights.
        backbone: Configuration file of a network of one's own, taken for small, or the name of an
            architecture, taken for large unless it is a convolutional one of timm.
        head: A probe is not tuned, unless `tune` says so: it is fitted in closed form.
        tune: What the user wants trained of the image tower; None: the recipe's.
    """
    if name == "auto":
        name = "finetune" if pretrained else "scratch"
    recipe = RECIPES[name]
    training = replace(recipe.training, tune=tune or ("none" if head == "probe" else "all"))
    rates = None if backbone.endswith(".json") else recipe.large
    if is_convolutional(backbone):
        rates = recipe.convolutional or rates
    if rates is not None:
        if training.tune in ("lora", "projector") and name == "finetune":
            # few numbers, which start at nothing or do one thing
            rates = replace(rates, image=TUNING_GAIN * rates.image)
        training = replace(training, rates=rates)
    return replace(recipe, training=training)
