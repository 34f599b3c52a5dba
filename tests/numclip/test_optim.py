"""Which parts learn and how fast, and the released RAdam against its golden steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from numclip.training.config import LearningRates, Optimizer, Schedule, TrainConfig
from numclip.training.optim import (
    RAdamReleased,
    freeze,
    make_optimizer,
    rate_factor,
    rectified_step,
)
from numclip_runtime import UsageError
from tests.numclip.golden import DIGITS, case
from tests.numclip.tiny import tiny_model

GIVEN, EXPECTED = case("radam_released")


def steps(make: Any, count: int = 8, **options: Any) -> list[float]:
    parameter = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = make([parameter], lr=GIVEN["lr"], **options)
    values = []
    for _ in range(count):
        parameter.grad = torch.full_like(parameter, GIVEN["grads"][0])
        optimizer.step()
        values.append(parameter.item())
    return values


def test_golden_steps() -> None:
    assert steps(RAdamReleased) == pytest.approx(EXPECTED["p"], abs=DIGITS)
    decayed = case("radam_released_wd")
    got = steps(RAdamReleased, weight_decay=decayed[0]["wd"])
    assert got == pytest.approx(decayed[1]["p"], abs=DIGITS)


def test_torch_moves_at_once_and_then_takes_the_same_steps() -> None:
    released, other = steps(RAdamReleased, 40), steps(torch.optim.RAdam, 40)
    assert other[:5] == pytest.approx([0.95, 0.9, 0.85, 0.8, 0.75])
    assert released[:5] == [1.0] * 5
    later = torch.tensor([released, other], dtype=torch.float64)[:, 4:].diff(dim=1)
    torch.testing.assert_close(later[0], later[1], atol=1e-6, rtol=0)
    assert later.abs().min() > 1e-3


def test_first_step_taken_depends_on_beta2() -> None:
    lengths = EXPECTED["N_sma"]
    taken = [rectified_step(step, 0.9, 0.999) is not None for step in range(1, 9)]
    assert taken == [length >= 5 for length in lengths]
    assert rectified_step(6, 0.9, 0.5) is None  # the average never gets long enough


def test_eps_is_added_to_the_uncorrected_root() -> None:
    (value,) = steps(RAdamReleased, 6, eps=1.0)[5:]
    root = 0.5 * (1 - 0.999**6) ** 0.5
    first = 1 - steps(RAdamReleased, 6, eps=0.0)[5]
    assert 1 - value == pytest.approx(first * root / (root + 1))


def test_groups_closure_and_state() -> None:
    def loss() -> float:
        optimizer.zero_grad()
        value = (slow - 3).square().sum() + (fast - 3).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    slow, fast, idle = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    groups = [{"params": [slow], "lr": 0.01}, {"params": [fast, idle], "lr": 0.1}]
    optimizer = RAdamReleased(groups)
    values = [optimizer.step(loss) for _ in range(200)]
    assert values[0] == 54
    assert values[-1] < values[5] / 2
    assert (fast > slow).all()
    assert not idle.any()
    copy = RAdamReleased(groups)
    copy.load_state_dict(optimizer.state_dict())
    assert copy.state[fast]["step"] == 200


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1e-8}, {"weight_decay": -0.1}]
)
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="RAdam: lr, eps and weight_decay must be at least 0"):
        RAdamReleased([nn.Parameter(torch.zeros(1))], **options)


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
