"""The NumCLIP model: image tower, adapter, what images are compared with, and the head."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.backbone import build_clip
from numclip.model.heads import Head, Probe, compared_phrases, make_head
from numclip.model.model_config import ModelConfig
from numclip.model.preprocessing import tower_side
from numclip.model.prompts import PromptLearner, RankPromptLearner
from numclip.model.prototypes import Prototypes
from numclip.model.text_encoder import TextEncoder
from numclip_runtime import Task, UsageError


class Output(NamedTuple):
    """Outputs of the model for B images."""

    values: Tensor  # (B,) label units, label offset included
    bin_probs: Tensor  # (B, K)
    logits: Tensor  # (B, K): softmax(logits / T) are the bins' probabilities at temperature T
    fine: Tensor  # (B,) label units: the head's numbers, whatever `values` are
    # What the head reads. (B, R) scaled cosine similarities with the vectors: of the numclip head,
    # the logits. SigLIP's logit_bias is left out: the same for all bins, it changes no bin_probs,
    # and losses and regressor see the same scale with any backbone. Of a probe, (B, D) features.
    scores: Tensor


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


def _pieces_along(images: Tensor, side: int) -> int:
    """Return n of mosaics of n x n pieces; 1 for pictures, which a tower may see at another size.

    So it is for features (B, D), where the tower is an identity because it has been called before.
    """
    if images.dim() != 4:
        return 1
    count, rest = divmod(images.shape[-1], side)
    return 1 if rest else max(count, 1)


def pieces_of(images: Tensor, side: int) -> Tensor:
    """Cut mosaics into their pieces: (B, 3, n * side, n * side) to (B * n^2, 3, side, side)."""
    count = _pieces_along(images, side)
    if count == 1:
        return images
    pieces = images.reshape(-1, 3, count, side, count, side).permute(0, 2, 4, 1, 3, 5)
    return pieces.reshape(-1, 3, side, side)


def encode_pieces(tower: nn.Module, images: Tensor, side: int) -> Tensor:
    """Encode images, or mosaics: the mean of the features of a mosaic's pieces, (B, D).

    The tower sees each piece by itself, so any tower will do, at the size it was trained for.

    Args:
        tower: Maps (B, 3, side, side) to (B, D).
        images: (B, 3, H, H), where H is `side`, or a multiple of it for `preprocess.mosaic`.
        side: Pixels.
    """
    features: Tensor = tower(pieces_of(images, side))  # (B * n^2, D)
    count = _pieces_along(images, side)
    if count == 1:
        return features
    return features.reshape(-1, count * count, features.shape[-1]).mean(1)


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
        words = config.has_words
        source: Any = build_clip(config.clip, words=words) if clip is None else clip
        self.config = config
        self.task = task
        self.image_encoder: nn.Module = source.visual
        self.side = tower_side(config.clip)
        width = int(config.clip["embed_dim"])
        phrases = compared_phrases(config, task)
        if words:
            text: Any = getattr(source, "text", source)
            self.text_encoder = TextEncoder(source)
            tower = (text.token_embedding.weight, text.context_length, config.prompts)
            self.prompt_learner: PromptLearner | RankPromptLearner = (
                PromptLearner(task.context, phrases, *tower)
                if config.prompts.kind == "plain"
                else RankPromptLearner(task.context, len(phrases), *tower)
            )
            if self.text_encoder.causal:
                self.prompt_learner.end_at_last_eot()
        elif config.head != "probe":
            self.prototypes = Prototypes(len(phrases), width)
        self.image_adapter = Adapter(
            width, config.adapter_reduction, config.adapter_ratio, config.adapter_width
        )
        self.regressor: Head = make_head(config, task)
        log_scale: Tensor = source.logit_scale.detach().clone()
        if logit_scale is not None:
            log_scale.fill_(logit_scale).log_()
        self.logit_scale = nn.Parameter(log_scale)  # the scale's logarithm

    def text_features(self) -> Tensor:
        """Encode the sentences, or return the prototypes, (R, D), not normalised.

        R is the number of bins K, or of a distribution's numbers M; 0 for a probe.
        """
        if self.config.head == "probe":
            return self.logit_scale.new_empty(0, int(self.config.clip["embed_dim"]))
        if not self.config.has_words:
            return self.prototypes()  # type: ignore[no-any-return]
        features: Tensor = self.text_encoder(self.prompt_learner(), self.prompt_learner.eot_index)
        return features

    def forward(self, images: Tensor, text_features: Tensor | None = None) -> Output:
        """Predict.

        Args:
            images: (B, 3, H, W) float, normalised RGB, or mosaics: see `encode_pieces`.
            text_features: (R, D) from `text_features`, to encode them once for many batches.
        """
        text = self.text_features() if text_features is None else text_features
        scores = encode_pieces(self.image_encoder, images, self.side)  # (B, D)
        if not isinstance(self.regressor, Probe):
            scores = (
                self.logit_scale.exp()
                * F.normalize(self.image_adapter(scores), dim=-1, eps=1e-12)
                @ F.normalize(text, dim=-1).T
            )  # (B, R)
        read = self.regressor.readout(scores)
        values = point_estimate(self.task, read.fine, read.bin_probs)
        fine = read.fine + self.task.label_offset
        return Output(values, read.bin_probs, read.logits, fine, scores)
