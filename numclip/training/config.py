"""The training recipe: what `numclip-train` may change, with the paper's defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from numclip.model.numclip import NumClip
from numclip.training.losses import LossMode
from numclip.training.optim import RAdamReleased
from numclip_runtime import UsageError

Optimizer = Literal["radam", "radam-released", "adamw"]
Schedule = Literal["constant", "cosine", "multistep"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


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

    def groups(self, model: NumClip) -> Iterator[dict[str, Any]]:
        """Yield optimizer groups, and set requires_grad of every parameter."""
        prompts = model.prompt_learner
        parts: list[tuple[float, list[nn.Parameter]]] = [
            (self.image, list(model.image_encoder.parameters())),
            (self.text, list(model.text_encoder.parameters())),
            (self.context, [prompts.context_embeds]),
            (self.rank, [prompts.rank_embeds]),
            (self.adapter, list(model.image_adapter.parameters())),
            (self.regressor, list(model.regressor.parameters())),
            (self.logit_scale, [model.logit_scale]),
        ]
        for rate, parameters in parts:
            for parameter in parameters:
                parameter.requires_grad_(rate > 0)
            if rate > 0:
                yield {"params": parameters, "lr": rate}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are the paper's recipe for age."""

    epochs: int = 200
    batch_size: int = 32  # per process and accumulation step
    accumulate: int = 1  # batches per update; FCRC's text-to-image half sees one batch at a time
    rates: LearningRates = LearningRates()
    optimizer: Optimizer = "radam"
    weight_decay: float = 0.0  # decoupled from the gradient
    schedule: Schedule = "multistep"  # multistep: x0.1 at 30 % of the epochs (60 of 200)
    warmup_steps: int = 0  # linear from 0
    loss_mode: LossMode = "released"  # of the two FCRC losses, see numclip.training.losses
    regression_weight: float = 1.0  # of the L1 loss, in label units, against the two FCRC losses
    precision: Precision = "32-true"  # Lightning's word; the paper used 16-mixed
    patience: int = 0  # epochs without a better validation MAE before stopping; 0: never
    workers: int = 0  # processes that load images
    seed: int = 0

    def rate_factor(self, step: int, updates: int) -> float:
        """Return the factor on the learning rates at an update of a run of `updates`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        done = min(1.0, step / max(1, updates))
        if self.schedule == "cosine":
            return warm * (1 + math.cos(math.pi * done)) / 2
        return warm * (0.1 if self.schedule == "multistep" and done >= 0.3 else 1.0)


def make_optimizer(model: NumClip, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer over the parts that learn; the others are frozen.

    Raises:
        UsageError: if every learning rate is 0.
    """
    groups = list(config.rates.groups(model))
    if not groups:
        raise UsageError("all learning rates are 0; raise one, or there is nothing to train.")
    decay = config.weight_decay
    if config.optimizer == "radam":
        return torch.optim.RAdam(groups, weight_decay=decay, decoupled_weight_decay=True)
    make = RAdamReleased if config.optimizer == "radam-released" else torch.optim.AdamW
    return make(groups, weight_decay=decay)
