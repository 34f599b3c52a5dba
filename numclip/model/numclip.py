"""The NumCLIP model: image tower, adapter, prompts, coarse logits, fine regressor."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.backbone import build_clip
from numclip.model.model_config import ModelConfig, RegressorForm
from numclip.model.prompts import PromptLearner, RankPromptLearner
from numclip.model.prototypes import Prototypes
from numclip.model.text_encoder import TextEncoder
from numclip_runtime import Task, UsageError

MIN_DIVISOR = 1e-3  # tanh saturates to -1 in float32; the released form then divides by zero


class Output(NamedTuple):
    """Outputs of the model for B images."""

    values: Tensor  # (B,) label units, label offset included
    bin_probs: Tensor  # (B, K)
    # (B, K), scaled cosine similarities. SigLIP's logit_bias is left out: the same for all bins, it
    # changes no bin_probs, and losses and regressor see the same scale with any backbone.
    logits: Tensor
    fine: Tensor  # (B,) label units: the regressor's numbers, whatever `values` are


class Adapter(nn.Module):
    """Blend image features with a learned bottleneck: r * relu(relu(f W1) W2) + (1 - r) * f.

    Args:
        width: Feature width D.
        reduction: Bottleneck is D / reduction wide, at least 1.
        ratio: Share r of the learned branch.
        hidden: Width of the bottleneck, in place of D / reduction.

    Raises:
        UsageError: if hidden is below 1.

    Source:
        NumCLIP's image adapter, after CLIP-Adapter (arXiv 2110.04544).
    """

    def __init__(self, width: int, reduction: int, ratio: float, hidden: int | None = None) -> None:
        super().__init__()
        if hidden is None:
            hidden = max(1, width // reduction)
        if hidden < 1:
            raise UsageError(f"the adapter's width must be at least 1, got {hidden}.")
        self.ratio = ratio
        self.fc = nn.Sequential()
        if ratio == 0:  # bypassed: nothing to learn or to store
            return
        self.fc = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, width, bias=False),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, D) to (B, D)."""
        return self.ratio * self.fc(features) + (1 - self.ratio) * features  # type: ignore[no-any-return]


class FineRegressor(nn.Module):
    """Refine the coarse logits to a number: an expectation over one representative per bin.

    With d = tanh(A2 relu(A1 logits + b1) + b2), the representative of bin k is
    `lower_k / (1 + d_k)` in the "released" form (lower bounds only, unbounded above), and
    `lower_k + width_k * (1 + d_k) / 2` in the "bounded" form (always inside its bin). The
    "expected" form has no d and learns nothing: the representative is the bin's midpoint.

    Args:
        bin_edges: K + 1 edges, in label units without offset.
        form: "released", "bounded" or "expected".

    Raises:
        UsageError: if the form is none of these.

    Source:
        NumCLIP (arXiv 2408.03574), after SSR-Net. Deviation from the released code: 1 + d is kept
        above 1e-3, where it would divide by zero (0 / 0 for a lower edge of 0).
    """

    bin_edges: Tensor  # (K + 1,)

    def __init__(self, bin_edges: tuple[float, ...], form: RegressorForm = "released") -> None:
        super().__init__()
        if form not in get_args(RegressorForm):
            raise UsageError(
                f"unknown form of regressor {form!r}; known are {get_args(RegressorForm)}."
            )
        bins = len(bin_edges) - 1
        self.form = form
        self.register_buffer("bin_edges", torch.tensor(bin_edges), persistent=False)
        if form == "expected":
            return
        self.fc = nn.Linear(bins, 2 * bins)
        self.delta = nn.Linear(2 * bins, bins)
        for layer in (self.fc, self.delta):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, logits: Tensor, bin_probs: Tensor) -> Tensor:
        """Map logits and bin_probs (B, K) to numbers (B,), label units without offset."""
        lower = self.bin_edges[:-1]
        if self.form == "expected":
            return bin_probs @ ((lower + self.bin_edges[1:]) / 2)
        delta = torch.tanh(self.delta(F.relu(self.fc(logits))))  # (B, K)
        if self.form == "bounded":
            inside = lower + (self.bin_edges[1:] - lower) * (1 + delta) / 2
            return (bin_probs * inside).sum(1)
        return (bin_probs * lower / (1 + delta).clamp_min(MIN_DIVISOR)).sum(1)


def point_estimate(task: Task, fine: Tensor, bin_probs: Tensor) -> Tensor:
    """Return the number that a prediction stands for, of the kind `task.prediction`.

    The model and its folded form share it.

    Args:
        task: Gives the kind of prediction, the bins' numbers and the label offset.
        fine: (B,) the fine regressor's numbers, label units without offset.
        bin_probs: (B, K) probabilities of the bins.

    Returns:
        (B,) label units, offset included, within the task's range: the regressor's numbers are
        clipped to it, as intervals are, since no label lies outside. "class" has no gradient, and
        clipped numbers have none, so train on `fine`.
    """
    if task.prediction == "regressor":
        values = fine.clamp(task.bin_edges[0], task.bin_edges[-1])
    else:
        numbers = torch.tensor(task.bin_values, dtype=bin_probs.dtype, device=bin_probs.device)
        expected = task.prediction == "expected"
        most = bin_probs.argmax(1)  # (B,)
        values = (bin_probs * numbers).sum(1) if expected else numbers.index_select(0, most)
    return values + task.label_offset if task.label_offset else values


def sentences(task: Task) -> list[str]:
    """Return the bins' sentences, K of them, before any word is learned."""
    return [f"{task.context} {phrase}.".replace("_", " ") for phrase in task.phrases]


class NumClip(nn.Module):
    """NumCLIP: classify the image against phrases of bins, then refine to a number.

    Args:
        config: Architecture.
        task: Bins and phrases.
        clip: open_clip model to take over; None builds one with random weights.
        logit_scale: Initial scale of the cosine similarities; None: the open_clip model's own.

    Source:
        NumCLIP (arXiv 2408.03574), section 3.
    """

    def __init__(
        self,
        config: ModelConfig,
        task: Task,
        clip: nn.Module | None = None,
        *,
        logit_scale: float | None = None,
    ) -> None:
        super().__init__()
        words = config.vectors == "words"
        source: Any = build_clip(config.clip, words=words) if clip is None else clip
        self.config = config
        self.task = task
        self.image_encoder: nn.Module = source.visual
        width = int(config.clip["embed_dim"])
        if words:
            text: Any = getattr(source, "text", source)
            self.text_encoder = TextEncoder(source)
            tower = (text.token_embedding.weight, text.context_length, config.prompts)
            self.prompt_learner: PromptLearner | RankPromptLearner = (
                PromptLearner(task.context, task.phrases, *tower)
                if config.prompts.kind == "plain"
                else RankPromptLearner(task.context, task.num_bins, *tower)
            )
        else:
            self.prototypes = Prototypes(task.num_bins, width)
        self.image_adapter = Adapter(
            width, config.adapter_reduction, config.adapter_ratio, config.adapter_width
        )
        self.regressor = FineRegressor(task.bin_edges, config.regressor)
        log_scale: Tensor = source.logit_scale.detach().clone()
        if logit_scale is not None:
            log_scale.fill_(logit_scale).log_()
        self.logit_scale = nn.Parameter(log_scale)  # the scale's logarithm

    def text_features(self) -> Tensor:
        """Encode the bins' sentences, or return the prototypes, (K, D), not normalised."""
        if self.config.vectors == "prototypes":
            return self.prototypes()  # type: ignore[no-any-return]
        features: Tensor = self.text_encoder(self.prompt_learner(), self.prompt_learner.eot_index)
        return features

    def forward(self, images: Tensor, text_features: Tensor | None = None) -> Output:
        """Predict.

        Args:
            images: (B, 3, H, W) float, normalised RGB.
            text_features: (K, D) from `text_features`, to encode them once for many batches.
        """
        text = self.text_features() if text_features is None else text_features
        features = self.image_adapter(self.image_encoder(images))  # (B, D)
        logits = (
            self.logit_scale.exp()
            * F.normalize(features, dim=-1, eps=1e-12)
            @ F.normalize(text, dim=-1).T
        )  # (B, K)
        bin_probs = logits.softmax(-1)
        fine = self.regressor(logits, bin_probs)  # (B,)
        values = point_estimate(self.task, fine, bin_probs)
        return Output(values, bin_probs, logits, fine + self.task.label_offset)
