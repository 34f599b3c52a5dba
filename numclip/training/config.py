"""How to train, with the paper's defaults; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from numclip.model.model_config import Tune

RankingMode = Literal["released", "corrected", "plain"]  # of the two FCRC losses
LossMode = Literal["released", "corrected", "plain", "rps"]
Optimizer = Literal["radam", "radam-released", "adamw"]
Schedule = Literal["multistep", "cosine", "constant"]
TrainPrecision = Literal["32-true", "16-mixed", "bf16-mixed"]  # Lightning's names
RegressionUnit = Literal["label", "spread"]


@dataclass(frozen=True)
class LearningRates:
    """One learning rate per part of the model; 0 freezes the part. Defaults are the paper's."""

    image: float = 1e-5
    text: float = 0.0
    context: float = 0.0
    rank: float = 1e-5
    adapter: float = 1e-5
    regressor: float = 1e-5
    logit_scale: float = 0.0

    def scaled(self, image: float) -> LearningRates:
        """Return all rates in the same proportions, the image tower's being `image`."""
        factor = image / self.image
        return LearningRates(**{f.name: getattr(self, f.name) * factor for f in fields(self)})


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are the paper's for age."""

    epochs: int = 200
    batch_size: int = 32  # per process and accumulation step
    accumulate: int = 1  # batches per update; FCRC's text-to-image half sees one batch at a time
    rates: LearningRates = LearningRates()
    optimizer: Optimizer = "radam"
    weight_decay: float = 0.0  # decoupled from the gradient
    schedule: Schedule = "multistep"  # multistep: x0.1 from `drop_at` on
    drop_at: int | None = None  # finished epochs; None: 30 % of all (60 of 200)
    warmup_steps: int = 0  # linear from 0; at most half of the updates
    # Of the two FCRC losses, or a ranked probability score in their place, which is open to every
    # head; distribution and probe have a cross-entropy otherwise. See numclip.training.losses.
    loss_mode: LossMode = "released"
    regression_weight: float = 1.0  # of the L1 loss against the others
    # The L1 loss counts in the labels' own unit, or in their spread: the mean distance of the
    # training labels from their median, which is the same for grams and kilograms.
    regression_unit: RegressionUnit = "label"
    target_width: float | None = None  # of a distribution's soft targets; None: see soft_targets
    tune: Tune = "all"  # of the image tower: all, its last linear layer, low-rank updates, nothing
    lora_rank: int = 8  # of the low-rank updates
    precision: TrainPrecision = "32-true"  # the paper used 16-mixed, which needs a GPU
    patience: int = 0  # epochs without a better validation MAE before stopping; 0: never
    flip: bool = True  # mirror half of the images, left to right, each time they are seen
    workers: int = 2  # processes that load images; 0: this one
    seed: int = 0


PAPER_TRAINING = TrainConfig()
