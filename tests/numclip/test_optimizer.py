"""Learning rates: which parts learn, and how fast at each step."""

from __future__ import annotations

import math

import pytest
import torch

from numclip.training.config import LearningRates, Optimizer, Schedule, TrainConfig
from numclip.training.optim import freeze, make_optimizer, rate_factor
from tests.numclip.tiny import tiny_model

RATES = LearningRates(image=1e-3, rank=1e-3, adapter=1e-3, regressor=1e-2)


def test_default_rates_freeze_the_text_tower() -> None:
    model = tiny_model()
    freeze(model, LearningRates())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    still = ("text_encoder.", "prompt_learner.context_embeds", "logit_scale")
    assert trained == {n for n, _ in model.named_parameters() if not n.startswith(still)}


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1.0] * 10),
        ("constant", 4, [0.25, 0.5, 0.75] + [1.0] * 7),
        ("multistep", 0, [1.0] * 3 + [0.1] * 7),
        ("multistep", 2, [0.5, 1.0, 1.0] + [0.1] * 7),
        ("cosine", 0, [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]),
    ],
)
def test_schedule(schedule: Schedule, warmup: int, expected: list[float]) -> None:
    config = TrainConfig(rates=RATES, schedule=schedule, warmup_steps=warmup)
    assert [rate_factor(config, step, 10) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("radam", torch.optim.RAdam), ("adamw", torch.optim.AdamW)]
)
def test_optimizers(name: Optimizer, kind: type[torch.optim.Optimizer]) -> None:
    config = TrainConfig(rates=RATES, optimizer=name, weight_decay=0.5)
    optimizer = make_optimizer(tiny_model(), config)
    assert type(optimizer) is kind
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3, 1e-3, 1e-2]
