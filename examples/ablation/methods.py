"""Rival methods of ordinal regression on one backbone, each trained by the same loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.ablation.tiny_clip import CLIP
from numclip.model.model_config import PLAIN, ModelConfig, PromptConfig, RegressorForm
from numclip.model.numclip import NumClip, Output
from numclip.training import optim
from numclip.training.config import LearningRates, LossMode, TrainConfig
from numclip.training.losses import batch_losses, plain_image_to_text, plain_text_to_image
from numclip_runtime import Task

Loss = Callable[[Output, Tensor, Tensor], Tensor]  # outputs, labels (B,), bins (B,) -> scalar


class Head(nn.Module):
    """The image tower with a learned head and no text: linear regression, or classification.

    Args:
        clip: open_clip `CLIP`; its image tower is taken over.
        task: One bin per whole number.
        regression: One number per image; else the cosines to one learned vector per bin.
    """

    def __init__(self, clip: nn.Module, task: Task, *, regression: bool) -> None:
        super().__init__()
        self.image_encoder = clip.get_submodule("visual")
        self.logit_scale = clip.get_parameter("logit_scale").detach()
        self.register_buffer("numbers", torch.tensor(task.bin_values, dtype=torch.float32))
        self.task = task
        self.regression = regression
        width = int(CLIP["embed_dim"])
        self.head = nn.Linear(width, 1 if regression else task.num_bins, bias=regression)
        self.scale = task.label_range / 2  # the head starts near the middle, in units of about 1
        self.middle = task.bin_edges[0] + self.scale

    def forward(self, images: Tensor) -> Output:
        """Map (B, 3, H, W) to outputs; for regression, bin_probs are those of the nearest bin."""
        features = self.image_encoder(images)
        numbers = self.get_buffer("numbers")
        if self.regression:
            values = self.middle + self.scale * self.head(features)[:, 0]
            logits = -(values[:, None] - numbers).abs()
        else:
            rows = F.normalize(self.head.weight, dim=-1)
            logits = self.logit_scale.exp() * F.normalize(features, dim=-1) @ rows.T
            values = logits.softmax(1) @ numbers
        return Output(values, logits.softmax(1), logits, values, logits)


@dataclass(frozen=True)
class Method:
    """One row of the comparison."""

    label: str  # in tables and plots
    build: Callable[[nn.Module, Task], nn.Module]  # pretrained CLIP, coarse task -> model
    loss: Loss
    fine_bins: bool  # one bin per whole number, not the coarse bins with phrases
    trained: bool = True


def whole_numbers(task: Task) -> Task:
    """Return the task with one bin per whole number, as the rivals of NumCLIP see it."""
    low, high = int(task.bin_edges[0]), int(task.bin_edges[-1])
    return replace(
        task,
        bin_edges=tuple(range(low, high + 1)),
        phrases=tuple(str(number) for number in range(low, high)),
        prediction="expected",
    )


def parameter_groups(model: nn.Module, image: float, head: float) -> list[dict[str, object]]:
    """Return optimizer groups: the image tower at one rate, what is new at another."""
    if isinstance(model, NumClip):
        rates = LearningRates(
            image=image,
            context=head if model.config.adapter_ratio == 0 else 0.0,  # NumCLIP freezes it
            rank=head,
            adapter=head,
            regressor=head,
        )
        optim.freeze(model, rates)
        return [group for group in optim.parameter_groups(model, rates) if group["params"]]
    assert isinstance(model, Head)
    return [
        {"params": list(model.image_encoder.parameters()), "lr": image},
        {"params": list(model.head.parameters()), "lr": head},
    ]


def _prompted(prompts: PromptConfig) -> Callable[[nn.Module, Task], NumClip]:
    """CoOp and OrdinalCLIP: one sentence per whole number, no adapter, no regressor."""
    config = ModelConfig(CLIP, adapter_ratio=0.0, regressor="expected", prompts=prompts)
    return lambda clip, task: NumClip(config, whole_numbers(task), clip)


def _numclip(form: RegressorForm = "released") -> Callable[[nn.Module, Task], NumClip]:
    return lambda clip, task: NumClip(ModelConfig(CLIP, regressor=form), task, clip)


def _numclip_loss(mode: LossMode) -> Loss:
    config = TrainConfig(loss_mode=mode)  # L1 weight 1, as in the paper
    return lambda out, labels, bins: batch_losses(out, labels, bins, config)["loss"]


def _l1(out: Output, labels: Tensor, bins: Tensor) -> Tensor:
    return F.l1_loss(out.values, labels)


def _classify(out: Output, labels: Tensor, bins: Tensor) -> Tensor:
    return plain_image_to_text(out.logits, bins)


def _classify_both_ways(out: Output, labels: Tensor, bins: Tensor) -> Tensor:
    return _classify(out, labels, bins) + plain_text_to_image(out.logits, bins)


def _zero_shot(clip: nn.Module, task: Task) -> NumClip:
    return NumClip(ModelConfig(CLIP, adapter_ratio=0.0, regressor="expected"), task, clip)


def _head(*, regression: bool) -> Callable[[nn.Module, Task], Head]:
    return lambda clip, task: Head(clip, whole_numbers(task), regression=regression)


RANDOM_WORD = replace(PLAIN, random_rank_tokens=1)
RANK_PROMPTS = PromptConfig("rank", num_base_ranks=3)
METHODS = {
    "zero-shot": Method("zero-shot CLIP", _zero_shot, _classify, False, trained=False),
    "linear": Method("linear regression", _head(regression=True), _l1, True),
    "cross-entropy": Method("cross-entropy", _head(regression=False), _classify, True),
    "coop": Method("CoOp", _prompted(RANDOM_WORD), _classify, True),
    "ordinalclip": Method("OrdinalCLIP", _prompted(RANK_PROMPTS), _classify_both_ways, True),
    "numclip-plain": Method("NumCLIP without FCRC", _numclip(), _numclip_loss("plain"), False),
    "numclip": Method("NumCLIP", _numclip(), _numclip_loss("released"), False),
    "numclip-corrected": Method(
        "NumCLIP, corrected FCRC", _numclip(), _numclip_loss("corrected"), False
    ),
    "numclip-bounded": Method(
        "NumCLIP, corrected, bounded", _numclip("bounded"), _numclip_loss("corrected"), False
    ),
}
