"""Parity: a file agrees with its checkpoint on images, or it is not kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from numclip.checkpoint import Checkpoint
from numclip.model.numclip import pieces_of
from numclip_export.cosine import centred_cosines
from numclip_export.engine.build_options import MAX_BATCH, OPT_BATCH
from numclip_export.images import VerifyImages
from numclip_runtime import NumclipError
from numclip_runtime.metadata import Arithmetic, InputKind
from numclip_runtime.preprocess import FloatArray, InputArray


class Budget(NamedTuple):
    """How much a file may differ from its checkpoint."""

    value: float  # share of the label range
    prob: float  # absolute, of a probability
    judged_by: Literal["max", "mean"] = "max"  # over the images' value errors
    largest: float | None = None  # share of the range, of the largest error besides the mean


# float32: rounding stays an order below. float16: a fifth of a percent of the range is hidden by a
# model's own error; of the probabilities, a whole percent, so that the values decide. int8:
# rounding is felt, and predictions must not get worse: half a percent of the range in the mean
# (fp32 and fp16: largest), whatever the probabilities; see `int8.acceptance`. bf16
# keeps 8 bits where fp16 keeps 11: the share of fp16 holds in the mean, and five times it at most.
BUDGETS: Mapping[Arithmetic, Budget] = {
    "fp32": Budget(1e-5, 1e-3),
    "fp16": Budget(2e-3, 1e-2),
    "bf16": Budget(2e-3, 5e-2, judged_by="mean", largest=1e-2),
    "int8": Budget(5e-3, 1.0, judged_by="mean"),
}

Run = Callable[[InputArray], tuple[FloatArray, FloatArray]]  # images -> values, bin_probs


class ParityError(NumclipError, ArithmeticError):
    """The file's predictions differ from the checkpoint's beyond the tolerance."""


@dataclass(frozen=True)
class Parity:
    """Differences between a file and its checkpoint, over images and batch sizes."""

    source: str  # of the photos: "validation" or "given"; "synthetic" if there are none
    images: int
    photos: int  # of these; the others are synthetic
    batch_sizes: tuple[int, ...]
    value_tolerance: float  # label units
    prob_tolerance: float  # absolute, of a probability
    max_value_error: float  # label units
    mean_value_error: float  # label units
    p99_value_error: float  # label units
    max_prob_error: float  # absolute, of a probability
    # Where values are classes: images whose two best classes are closer than prob_tolerance. Either
    # is right, so their values do not count; their probabilities do. Otherwise 0.
    ties: int
    # Cosine between the image features, less their mean over the images: plain cosines are above
    # .99 whatever happens, because all features point into one narrow cone. None: not measured.
    min_feature_cosine: float | None = None
    mean_feature_cosine: float | None = None
    judged_by: str = "max"  # "max" or "mean" of the value errors must be within tolerance
    # Of the largest value error where the mean is judged, label units; None: no limit
    max_value_tolerance: float | None = None

    @property
    def judged_value_error(self) -> float:
        """The value error that must be within tolerance, label units."""
        return self.mean_value_error if self.judged_by == "mean" else self.max_value_error

    @property
    def passed(self) -> bool:
        """Whether the differences are finite and within their tolerances."""
        return (
            math.isfinite(self.max_value_error + self.max_prob_error)
            and self.judged_value_error <= self.value_tolerance
            and (
                self.max_value_tolerance is None or self.max_value_error <= self.max_value_tolerance
            )
            and self.max_prob_error <= self.prob_tolerance
        )

    @property
    def difference(self) -> str:
        """How far the file is from its checkpoint, and how far it may be, for people."""
        where = "by up to" if self.judged_by == "max" else "in the mean by"
        largest = ""
        if self.max_value_tolerance is not None:
            largest = f", by up to {self.max_value_error:.3g} ({self.max_value_tolerance:.3g}),"
        return (
            f"its values differ from the checkpoint's {where} {self.judged_value_error:.3g} "
            f"(allowed {self.value_tolerance:.3g}){largest} and its probabilities by "
            f"{self.max_prob_error:.3g} (allowed {self.prob_tolerance:g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {**asdict(self), "passed": self.passed}


class Reference:
    """Outputs of a checkpoint, which runs once, in torch; files are compared with them.

    Args:
        checkpoint: Its temperature is applied.
        images: Images to compare on.
        max_batch: Largest batch size to run.
        atol: Largest difference of a value, label units, in place of every budget.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        images: VerifyImages,
        *,
        max_batch: int = MAX_BATCH,
        atol: float | None = None,
    ) -> None:
        self.images = images
        self.atol = atol
        self.task = checkpoint.task
        self.batch_sizes = tuple(sorted({1, min(OPT_BATCH, max_batch), max_batch}))
        model = checkpoint.model
        with torch.inference_mode():
            text = model.text_features()
            parts = [
                (*checkpoint.outputs(part, text), model.image_encoder(pieces_of(part, model.side)))
                for part in torch.split(torch.from_numpy(images.inputs), OPT_BATCH)
            ]
        self.values, self.bin_probs, self.features = (
            torch.cat(column).numpy() for column in zip(*parts, strict=True)
        )

    def judge(
        self,
        run: Run,
        precision: Arithmetic,
        features: FloatArray | None = None,
        *,
        kind: InputKind = "float32",
    ) -> Parity:
        """Measure a file.

        Args:
            run: Runs it on (B, 3, H, W) float32 or (B, H, W, 3) uint8.
            precision: Its budget applies.
            features: (N, D) its image features of all images, if known.
            kind: Its kind of input.
        """
        budget, images = BUDGETS[precision], self.images.of_kind(kind)
        count = len(images)
        ties = self._ties(budget.prob)
        value_errors, prob_errors = [], []
        for size in self.batch_sizes:
            for start in range(0, count, size):
                # the last batch is filled with the first images
                rows = np.arange(start, start + size) % count
                values, bin_probs = run(images[rows])
                errors = np.abs(values - self.values[rows])
                # a tie's value may be another class, but it must be a number
                value_errors.append(np.where(ties[rows] & np.isfinite(errors), 0, errors))
                prob_errors.append(np.abs(bin_probs - self.bin_probs[rows]).max(1))
        value_error, prob_error = np.concatenate(value_errors), np.concatenate(prob_errors)
        cosines = None if features is None else centred_cosines(features, self.features)
        return Parity(
            source=self.images.source,
            images=count,
            photos=self.images.photos,
            batch_sizes=self.batch_sizes,
            value_tolerance=self._allowed(budget.value),
            prob_tolerance=budget.prob,
            max_value_error=float(value_error.max()),
            mean_value_error=float(value_error.mean()),
            p99_value_error=float(np.quantile(value_error, 0.99, method="higher")),
            max_prob_error=float(prob_error.max()),
            judged_by=budget.judged_by,
            max_value_tolerance=None if budget.largest is None else self._allowed(budget.largest),
            ties=int(ties.sum()),
            min_feature_cosine=None if cosines is None else float(cosines.min()),
            mean_feature_cosine=None if cosines is None else float(cosines.mean()),
        )

    def _allowed(self, share: float) -> float:
        """Return a share of the label range in label units, or what was given in its place."""
        return share * self.task.label_range if self.atol is None else self.atol

    def _ties(self, tolerance: float) -> np.ndarray[Any, Any]:
        """Return for each image whether its class may flip within the tolerance, (N,)."""
        if self.task.prediction != "class":
            return np.zeros(len(self.bin_probs), bool)
        best = np.sort(self.bin_probs, axis=1)[:, -2:]  # (N, 2)
        ties: np.ndarray[Any, Any] = best[:, 1] - best[:, 0] <= tolerance
        return ties
