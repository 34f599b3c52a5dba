"""Recipes: how to train from pretrained weights, from none, or as the paper; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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
    starts_pretrained: bool = True
    # Label in files minus the model's number, by name of the preset that the recipe was made for
    # and that says otherwise. It replaces the task's own, it is not added to it.
    label_offsets: tuple[tuple[str, float], ...] = ()

    def label_offset(self, task: Task) -> float:
        """Return the label offset of a task under this recipe."""
        return dict(self.label_offsets).get(task.name, task.label_offset)


_SCRATCH = TrainConfig(
    epochs=100,
    rates=LearningRates(
        image=1e-3, text=1e-3, context=1e-3, rank=1e-3, adapter=1e-3, regressor=1e-3
    ),
    optimizer="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=50,
    loss_mode="corrected",
    regression_weight=4.0,
    regression_unit="spread",
)
_FINETUNE = replace(
    _SCRATCH,
    epochs=30,
    rates=LearningRates(image=3e-5, context=3e-4, rank=3e-4, adapter=1e-3, regressor=1e-3),
)
# The released code: lists whose labels begin at 1 are shifted to 0 (morph: ages, y - 1).
_PAPER = TrainConfig(
    epochs=100, optimizer="radam-released", drop_at=60, precision="16-mixed", seed=114514
)
RECIPES: dict[RecipeName, Recipe] = {
    "finetune": Recipe(_FINETUNE, "bounded"),
    "scratch": Recipe(_SCRATCH, "bounded", starts_pretrained=False),
    "morph": Recipe(replace(_PAPER, epochs=200), label_offsets=(("age", 1.0),)),
    "historical": Recipe(_PAPER),
    "aesthetics": Recipe(replace(_PAPER, rates=LearningRates(context=1e-5))),
}


def recipe_of(
    name: RecipeName,
    pretrained: str | None,
    head: HeadKind = "numclip",
    tune: Tune | None = None,
) -> Recipe:
    """Return a recipe; "auto" is "finetune" where training starts from weights, else "scratch".

    Args:
        name: Of the recipe.
        pretrained: Weights that training starts from, if any.
        head: A probe is not tuned, unless `tune` says so: it is fitted in closed form.
        tune: What the user wants trained of the image tower; None: the recipe's.
    """
    if name == "auto":
        name = "finetune" if pretrained else "scratch"
    recipe = RECIPES[name]
    training = replace(recipe.training, tune=tune or ("none" if head == "probe" else "all"))
    if training.tune in ("lora", "projector") and name == "finetune":
        rates = training.rates  # few numbers, which start at nothing or do one thing
        training = replace(training, rates=replace(rates, image=TUNING_GAIN * rates.image))
    return replace(recipe, training=training)
