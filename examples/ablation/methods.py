"""Rival methods of ordinal regression on one backbone, each trained by the same loop.

NumCLIP comes with four rankings of its bins (no FCRC, the released and the corrected one, a ranked
probability score), each at four weights of the L1 loss beside it; and with words, random words or
learned vectors to compare images with, under the same losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.ablation.tiny_clip import CLIP
from numclip.model.heads import Probe
from numclip.model.model_config import PLAIN, ModelConfig, PromptConfig
from numclip.model.numclip import NumClip, Output
from numclip.training import optim
from numclip.training.config import LearningRates, LossMode, TrainConfig
from numclip.training.losses import batch_losses, plain_image_to_text, plain_text_to_image
from numclip.training.probe import logistic_spread, ridge
from numclip_runtime import Task

Loss = Callable[[Output, Tensor, Tensor], Tensor]  # outputs, labels (B,), bins (B,) -> scalar
Build = Callable[[nn.Module, Task], NumClip]  # pretrained CLIP, coarse task -> model
Start = Literal["sentences", "random words", "random vectors", "vectors"]

RANKINGS: dict[LossMode, str] = {
    "plain": "no FCRC",
    "released": "released FCRC",
    "corrected": "corrected FCRC",
    "rps": "ranked score",
}
L1_WEIGHTS = (0, 0.01, 0.1, 1)  # the paper's is 1
STARTS: dict[Start, str] = {  # what NumCLIP's images are compared with, in place of its sentences
    "random words": "random words",
    "random vectors": "learned vectors, random start",
    "vectors": "learned vectors, started from the words",
}
# By losses: "plain" does not see the level of logits, 0 with random vectors, 20 with sentences
WITHOUT_WORDS: dict[LossMode, tuple[Start, ...]] = {
    "plain": ("random words", "random vectors", "vectors"),
    "released": ("random words", "random vectors"),
}
RANDOM_WORDS = 2  # of each bin: its phrase has 1 to 3


@dataclass(frozen=True)
class Method:
    """One row of the comparison."""

    label: str  # in tables and plots
    build: Build
    loss: Loss
    trained: bool = True
    ridge: bool = False  # starts from the ridge regression on the pretrained tower's features


def whole_numbers(task: Task) -> Task:
    """Return the task with one bin per whole number, as the rivals of NumCLIP see it."""
    low, high = int(task.bin_edges[0]), int(task.bin_edges[-1])
    return replace(
        task,
        bin_edges=tuple(range(low, high + 1)),
        phrases=tuple(str(number) for number in range(low, high)),
        prediction="expected",
    )


def parameter_groups(model: NumClip, image: float, head: float) -> list[dict[str, object]]:
    """Return optimizer groups: the image tower at one rate, what is new at another."""
    rates = LearningRates(
        image=image,
        context=head if model.config.adapter_ratio == 0 else 0.0,  # NumCLIP freezes it
        rank=head,
        adapter=head,
        regressor=head,
    )
    optim.freeze(model, rates)
    return optim.parameter_groups(model, rates)


def set_ridge(model: NumClip, features: Tensor, labels: Tensor) -> None:
    """Give a probe the ridge regression of labels (N,) on features (V, N, D) of V views each.

    The penalty is chosen by leaving out one picture with all its views.
    """
    views, count, _ = features.shape
    groups = [str(index) for index in range(count)] * views
    fit = ridge(features.flatten(0, 1), labels.repeat(views), groups=groups)
    assert isinstance(model.regressor, Probe)
    model.regressor.set_line(fit.weight, fit.intercept, logistic_spread(fit.errors, model.task))


def _numclip(weight: float, start: Start = "sentences") -> Build:
    """NumCLIP as released; without an L1 loss its number is the expectation over the bins."""

    def build(clip: nn.Module, task: Task) -> NumClip:
        if weight == 0:  # nothing teaches the regressor
            task = replace(task, prediction="expected")
        if start in ("sentences", "random words"):
            prompts = replace(PLAIN, random_rank_tokens=RANDOM_WORDS if "random" in start else 0)
            return NumClip(ModelConfig(CLIP, prompts=prompts), task, clip)
        model = NumClip(ModelConfig(CLIP, vectors="prototypes"), task, clip)
        if start == "vectors":
            with torch.no_grad():
                words = NumClip(ModelConfig(CLIP), task, clip).text_features()
                model.prototypes.weight.copy_(F.normalize(words, dim=-1))
        return model

    return build


def _numclip_loss(mode: LossMode, weight: float) -> Loss:
    config = TrainConfig(loss_mode=mode, regression_weight=weight)
    return lambda out, labels, bins: batch_losses(out, labels, bins, config)["loss"]


def _ordinalclip(clip: nn.Module, task: Task) -> NumClip:
    """One sentence per whole number, interpolated from three; no adapter, no regressor."""
    prompts = PromptConfig("rank", num_base_ranks=3)
    config = ModelConfig(CLIP, adapter_ratio=0.0, regressor="expected", prompts=prompts)
    return NumClip(config, whole_numbers(task), clip)


def _zero_shot(clip: nn.Module, task: Task) -> NumClip:
    return NumClip(ModelConfig(CLIP, adapter_ratio=0.0, regressor="expected"), task, clip)


def _probe(clip: nn.Module, task: Task) -> NumClip:
    return NumClip(ModelConfig(CLIP, head="probe"), task, clip)


def _l1(out: Output, labels: Tensor, bins: Tensor) -> Tensor:
    return F.l1_loss(out.fine, labels)


def _both_ways(out: Output, labels: Tensor, bins: Tensor) -> Tensor:
    return plain_image_to_text(out.logits, bins) + plain_text_to_image(out.logits, bins)


def _both_ways_and_l1(out: Output, labels: Tensor, bins: Tensor) -> Tensor:
    return _both_ways(out, labels, bins) + _l1(out, labels, bins)


METHODS = {
    "zero-shot": Method("zero-shot CLIP", _zero_shot, _l1, trained=False),
    "ridge": Method("ridge on the frozen tower", _probe, _l1, trained=False, ridge=True),
    "ridge-l1": Method("ridge, then trained with L1", _probe, _l1, ridge=True),
    "ordinalclip": Method("OrdinalCLIP", _ordinalclip, _both_ways),
    "ordinalclip-l1": Method("OrdinalCLIP + L1", _ordinalclip, _both_ways_and_l1),
    **{
        f"numclip-{mode}-{weight:g}": Method(
            f"NumCLIP, {ranking} + {weight:g} L1", _numclip(weight), _numclip_loss(mode, weight)
        )
        for weight in L1_WEIGHTS
        for mode, ranking in RANKINGS.items()
    },
    **{
        f"numclip-{mode}-1-{start.replace(' ', '-')}": Method(
            f"{STARTS[start]}, {RANKINGS[mode]} + 1 L1", _numclip(1, start), _numclip_loss(mode, 1)
        )
        for mode, starts in WITHOUT_WORDS.items()
        for start in starts
    },
}
