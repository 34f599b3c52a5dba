"""Optimizer: frozen parts, learning rates, schedule, and RAdam as in the released code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn

from numclip.model.model_config import Tune
from numclip.model.numclip import NumClip
from numclip.model.tuning import tuned_parameters
from numclip.training.config import LearningRates, TrainConfig
from numclip_runtime import UsageError

MIN_SMA = 5.0  # length of the approximated moving average from which on a step is taken


def freeze(model: NumClip, rates: LearningRates, tune: Tune = "all") -> None:
    """Set requires_grad of every parameter: whether its part has a learning rate above 0."""
    for rate, parameters in _parts(model, rates, tune):
        for parameter in parameters:
            parameter.requires_grad_(rate > 0)


def parameter_groups(
    model: NumClip, rates: LearningRates, tune: Tune = "all"
) -> list[dict[str, Any]]:
    """Return optimizer groups of the parts with a learning rate above 0."""
    parts = _parts(model, rates, tune)
    return [{"params": part, "lr": rate} for rate, part in parts if rate > 0 and part]


def _parts(
    model: NumClip, rates: LearningRates, tune: Tune
) -> list[tuple[float, list[nn.Parameter]]]:
    chosen, still = tuned_parameters(model.image_encoder, tune)
    return [
        (rates.image, chosen),
        (0.0, still),
        *_vectors(model, rates),
        (rates.adapter, list(model.image_adapter.parameters())),
        (rates.regressor, list(model.regressor.parameters())),
        (rates.logit_scale, [model.logit_scale]),
    ]


def _vectors(model: NumClip, rates: LearningRates) -> list[tuple[float, list[nn.Parameter]]]:
    """Return what makes the vectors that images are compared with; prototypes are rank words."""
    if model.config.head == "probe":
        return []
    if model.config.vectors == "prototypes":
        return [(rates.rank, list(model.prototypes.parameters()))]
    prompts = model.prompt_learner
    return [
        (rates.text, list(model.text_encoder.parameters())),
        (rates.context, [prompts.context_embeds]),
        (rates.rank, [prompts.rank_embeds]),
    ]


def make_optimizer(model: NumClip, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer over the parts with a learning rate above 0.

    Raises:
        UsageError: if every learning rate is 0.
    """
    groups = parameter_groups(model, config.rates, config.tune)
    if not groups:
        raise UsageError("all learning rates are 0; raise one, or there is nothing to train.")
    decay = config.weight_decay
    if config.optimizer == "radam":
        return torch.optim.RAdam(groups, weight_decay=decay, decoupled_weight_decay=True)
    if config.optimizer == "radam-released":
        return RAdamReleased(groups, weight_decay=decay)
    # In one pass, which small networks feel; a GPU's unscales fp16 gradients where it clips them
    on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, weight_decay=decay, fused=on_cpu)


def rate_factor(config: TrainConfig, step: int, updates: int) -> float:
    """Return the factor on the learning rates at an update (0, 1, ...) of a run of `updates`."""
    warmup = min(config.warmup_steps, updates // 2)  # a short run reaches its rates as well
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    done = min(1.0, step / max(1, updates))
    if config.schedule == "cosine":
        return warm * (1 + math.cos(math.pi * done)) / 2
    dropped = (
        done >= 0.3 if config.drop_at is None else step * config.epochs >= config.drop_at * updates
    )
    return warm * (0.1 if config.schedule == "multistep" and dropped else 1.0)


class RAdamReleased(torch.optim.Optimizer):
    """Rectified Adam that takes no step while its variance estimate is too short.

    It differs from `torch.optim.RAdam` in three ways: the first steps (5 at beta2 = 0.999) change
    nothing, where torch follows the momentum; eps is added to the root of the second moment
    without bias correction; weight decay is decoupled (lr * weight_decay * p) and waits as well.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay of the first and second moment, each in [0, 1).
        eps: Added to the denominator.
        weight_decay: Decoupled decay.

    Raises:
        UsageError: if a number is out of its range.

    Source:
        RAdam (arXiv 1908.03265), in the form that OrdinalCLIP's and NumCLIP's code uses.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if min(lr, eps, weight_decay, *betas) < 0 or max(betas) >= 1:
            raise UsageError(
                "RAdam: lr, eps and weight_decay must be at least 0 and betas in [0, 1), got "
                f"lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}."
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; `closure`, if given, computes the loss anew and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(parameter.grad, 1 - beta1)
        square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        factor = rectified_step(state["step"], beta1, beta2)
        if factor is None:
            return
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"] * factor)


def rectified_step(step: int, beta1: float, beta2: float) -> float | None:
    """Return the factor of the learning rate at a step (1, 2, ...); None: take no step.

    It contains both bias corrections and the rectification.
    """
    longest = 2 / (1 - beta2) - 1
    decayed = beta2**step
    length = longest - 2 * step * decayed / (1 - decayed)
    if length < MIN_SMA:
        return None
    rectification = (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
    return math.sqrt((1 - decayed) * rectification) / (1 - beta1**step)
