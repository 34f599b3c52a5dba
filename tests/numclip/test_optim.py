"""The released RAdam against its golden steps, and against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from numclip.training.optim import RAdamReleased, rectified_step
from numclip_runtime import UsageError
from tests.numclip.golden import DIGITS, case

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
