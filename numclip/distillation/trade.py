"""The trade of a distillation: what a student costs in place of its teacher, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from numclip.checkpoint import Checkpoint
from numclip.data.samples import Sample
from numclip.distillation.bound import Answers
from numclip.distillation.distill_options import TradeError
from numclip.evaluation.costs import macs_of, parameter_counts
from numclip.evaluation.predictions import labels_of
from numclip.evaluation.timing import lower_quartiles_ms
from numclip_runtime import Task
from numclip_runtime.calibration import Array
from numclip_runtime.console import visible
from numclip_runtime.preprocess import InputArray

# Shares of the teacher's MAE that may be lost. With labels, what is measured is the rise of the
# MAE. Without, it is the mean of |student - teacher|, which the rise cannot exceed; where these
# differences have nothing to do with the teacher's errors, half of its MAE raises it by an eighth.
SHARE_WITH_LABELS, SHARE_WITHOUT = 0.25, 0.5
SHARE_OF_RANGE = 0.025  # where the teacher's MAE is not known
IMAGES = 4  # of noise, which latencies are measured with
BYTES = 4  # of a float32 parameter


@dataclass(frozen=True)
class Cost:
    """What a prediction takes, sentences being encoded once and for all."""

    parameters: int  # without the text tower
    megabytes: float  # of these, in float32
    gmacs: float  # of one image
    latency_ms: float  # of one image, in PyTorch on the CPU


def costs(*checkpoints: Checkpoint) -> list[Cost]:
    """Count and time checkpoints; runs take turns, one image each."""
    runs, counted = [], []
    for checkpoint in checkpoints:
        model, side = checkpoint.model.eval().cpu(), checkpoint.preprocessing.crop
        noise = np.random.default_rng(0).normal(size=(IMAGES, 3, side, side)).astype(np.float32)
        with torch.inference_mode():
            text = model.text_features()

        def run(images: InputArray, model: Any = model, text: Any = text) -> object:
            with torch.inference_mode():
                return model(torch.from_numpy(images), text)

        plain = text.clone()  # MACs are counted outside of inference mode
        macs = macs_of(lambda model=model, x=noise[:1], t=plain: model(torch.from_numpy(x), t))  # type: ignore[misc]
        parts = parameter_counts(model)
        parts.pop("text_encoder", None)
        parts.pop("prompt_learner", None)
        vectors = plain.numel() * (not hasattr(model, "prototypes"))  # in place of both
        runs.append((run, noise))
        counted.append((sum(parts.values()) + vectors, macs))
    return [
        Cost(number, number * BYTES / 1e6, macs / 1e9, ms)
        for (number, macs), ms in zip(counted, lower_quartiles_ms(runs), strict=True)
    ]


def require_faster(teacher: Cost, student: Cost) -> None:
    """Refuse a student that takes as long as its teacher.

    Raises:
        TradeError: with both times.
    """
    if student.latency_ms >= teacher.latency_ms:
        raise TradeError(
            f"the student is no faster than its teacher: {student.latency_ms:.3g} ms an image "
            f"({student.gmacs:.3g} GMACs) in place of {teacher.latency_ms:.3g} ms "
            f"({teacher.gmacs:.3g} GMACs); nothing was trained. Give a smaller --student."
        )


@dataclass(frozen=True)
class Loss:
    """What is lost on N held-out images, label units."""

    images: int
    measured_on: str  # "test" or "held-out"
    mean_difference: float  # of |student - teacher|
    p95_difference: float  # its 95th percentile
    mae_teacher: float | None  # None: no labels
    mae_student: float | None
    limit: float  # of `lost`
    limit_from: str  # for people

    @property
    def lost(self) -> float:
        """What must be within the limit: the rise of the MAE, or what that cannot exceed."""
        if self.mae_student is None or self.mae_teacher is None:
            return self.mean_difference
        return self.mae_student - self.mae_teacher

    @property
    def word(self) -> str:
        """What `lost` is, for people."""
        return (
            "the mean difference to the teacher is"
            if self.mae_student is None
            else "the MAE rises by"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the report."""
        return {**asdict(self), "lost": self.lost, "accepted": self.lost <= self.limit}


def measured_loss(
    answers: Answers,
    samples: list[Sample],
    *,
    labelled: bool,
    measured_on: str,
    task: Task,
    metrics: Mapping[str, float],
    max_loss: float | None,
) -> Loss:
    """Compare both networks' answers, with each other and with labels.

    Args:
        answers: Of N images.
        samples: (N,) the images.
        labelled: Whether they have labels of their own.
        measured_on: See `Loss`.
        task: Gives the range.
        metrics: The teacher checkpoint's, of its validation.
        max_loss: Limit of the user's, label units; None: see `limit_of`.
    """
    labels = labels_of(samples)
    before, after = (
        float(np.abs(outputs.values - labels).mean()) if labelled else None
        for outputs in (answers.teacher, answers.student)
    )
    distances: Array = answers.distances
    limit, source = limit_of(max_loss, before, metrics, task)
    return Loss(
        len(samples),
        measured_on,
        float(distances.mean()),
        float(np.quantile(distances, 0.95)),
        before,
        after,
        limit,
        source,
    )


def limit_of(
    max_loss: float | None, mae: float | None, metrics: Mapping[str, float], task: Task
) -> tuple[float, str]:
    """Return what may be lost, label units, and where that comes from, for people.

    Args:
        max_loss: The user's own limit, which takes precedence.
        mae: The teacher's, measured with labels; None: there are none.
        metrics: The teacher checkpoint's.
        task: Gives the range.
    """
    if max_loss is not None:
        return max_loss, "--max-loss"
    if mae is not None:
        return SHARE_WITH_LABELS * mae, "a quarter of the teacher's MAE"
    if "mae" in metrics:
        return SHARE_WITHOUT * metrics["mae"], "half of the MAE in the teacher's checkpoint"
    return SHARE_OF_RANGE * task.label_range, f"{SHARE_OF_RANGE:.1%} of the label range"


def require_accepted(loss: Loss, task: Task, way_out: str) -> None:
    """Refuse a student that loses more than its limit.

    Raises:
        TradeError: with both figures.
    """
    if not loss.lost <= loss.limit:
        unit = f" {visible(task.unit)}" if task.unit else ""
        raise TradeError(
            f"the student loses too much: {loss.word} {task.number(loss.lost, 3)}{unit}, "
            f"{task.number(loss.limit, 3)} are allowed ({loss.limit_from}); {way_out}"
        )
