"""The loss of a student against its teacher, and the module that trains with it.

Both say of each image how probable the bins are, and a number. The loss is the Kullback-Leibler
divergence of the former (Hinton et al., arXiv 1503.02531), and the distance of the latter as a
share of the label range; with labels, the losses of numclip-train are added for the images that
have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from numclip.data.dataset import Batch, ImageDataset
from numclip.model.heads import Distribution
from numclip.model.numclip import NumClip, Output
from numclip.training.config import TrainConfig
from numclip.training.lightning_module import NumClipModule
from numclip.training.losses import batch_losses


@dataclass(frozen=True)
class Weights:
    """How the parts of the loss count."""

    temperature: float  # of both sides' logits
    value: float  # of |student - teacher| / label range
    label: float  # of the losses of labelled images


def teaching_losses(
    out: Output, told: Output, student: NumClip, teacher: NumClip, weights: Weights
) -> dict[str, Tensor]:
    """Return "kl", nats; "value", a share of the label range; "l1", label units; and "loss".

    Bins are compared; or the numbers of the grid, where both heads are distributions over the same.

    Args:
        out: The student's output for B images.
        told: The teacher's, for the same views.
        student: Gives the head and the task.
        teacher: Gives the head.
        weights: Of the parts.
    """
    mine, theirs = out.logits, told.logits
    grids = [m.regressor.grid for m in (student, teacher) if isinstance(m.regressor, Distribution)]
    if len(grids) == 2 and torch.equal(*grids):
        mine, theirs = out.scores, told.scores  # (B, M)
    log_probs, target = (
        (logits.float() / weights.temperature).log_softmax(-1) for logits in (mine, theirs)
    )
    kl = F.kl_div(log_probs, target, reduction="batchmean", log_target=True)
    kl = kl * weights.temperature**2  # as large as without, see Hinton et al., section 2.1
    l1 = (_number(out, student) - _number(told, student)).abs().mean()
    value = l1 / student.task.label_range
    return {"kl": kl, "value": value, "l1": l1, "loss": kl + weights.value * value}


def _number(out: Output, model: NumClip) -> Tensor:
    """Return numbers with a gradient, (B,), label units: `values` are clipped, or a class."""
    return out.values if model.task.prediction == "expected" else out.fine


class DistillModule(NumClipModule):
    """Train `model` to say what `teacher` says; see `NumClipModule`.

    Args:
        model: The student, changed in place.
        train: Training data; views as of `PairedView`, and the label NaN where there is none.
        val: Validation data of the student alone.
        config: How to train.
        teacher: In eval mode; its weights are neither trained nor saved.
        weights: Of the parts of the loss.
    """

    def __init__(
        self,
        model: NumClip,
        train: ImageDataset,
        val: ImageDataset,
        config: TrainConfig,
        *,
        teacher: NumClip,
        weights: Weights,
    ) -> None:
        super().__init__(model, train, val, config)
        self._teacher = (teacher,)  # in a tuple: it is no part of this module
        self._teacher_text: Tensor | None = None
        self._weights = weights

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device, and encode its sentences once."""
        (teacher,) = self._teacher
        teacher.eval().to(self.device)
        # as in `fit`: a CPU takes about three quarters of the time
        teacher.image_encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            self._teacher_text = teacher.text_features()

    def on_fit_end(self) -> None:
        """Give the teacher back as it was."""
        (teacher,) = self._teacher
        teacher.image_encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        teacher.cpu()

    def global_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch: those against the teacher, and against the labels."""
        views: Any = batch[0]
        images, seen = (views, views) if isinstance(views, Tensor) else views
        (teacher,) = self._teacher
        out = self.model(images)
        with torch.no_grad():
            told = teacher(seen, self._teacher_text)
        parts = teaching_losses(out, told, self.model, teacher, self._weights)
        labels = parts["kl"].new_zeros(())
        known = ~torch.isnan(batch[1])
        if self._weights.label and known.any():
            some = Output(*(part[known] for part in out))
            labels = batch_losses(
                some,
                batch[1][known],
                batch[2][known],
                self.config,
                self.model.regressor,
                self.model.task.label_offset,
            )["loss"]
            labels = labels * known.float().mean()  # of an image, however many have a label
        loss = parts["loss"] + self._weights.label * labels
        return parts | {"labels": labels, "loss": loss}
