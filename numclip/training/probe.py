"""The linear probe: ridge regression on the tower's features, in closed form, without a GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from numclip.checkpoint import Checkpoint
from numclip.data.checks import still_readable
from numclip.data.dataset import Broken, ImageDataset, evaluation_transform
from numclip.data.samples import Sample
from numclip.data.workers import loading_faults, quiet_when_left
from numclip.evaluation.metrics import validation_metrics
from numclip.evaluation.predictions import Outputs, predictions_of_checkpoint
from numclip.model.heads import Probe
from numclip.model.numclip import NumClip, point_estimate
from numclip_runtime import Preprocessing, Task
from numclip_runtime.console import visible

FEATURE_BATCH = 64  # images per run
MAX_IMAGES = 5_000  # of the training images that features are taken from, drawn evenly
# Penalties tried, per image, of features with variance 1
PENALTIES = tuple(10 ** (power / 4) for power in range(-20, 21))


@dataclass(frozen=True)
class Ridge:
    """A fitted line: label = weight . features + intercept."""

    weight: Tensor  # (D,) float64, label units per unit of the features
    intercept: float  # label units
    penalty: float  # per image, chosen by leave-one-out
    labels: Tensor  # (N,) float64 that it was fitted to
    errors: Tensor  # (N,) float64 leave-one-out errors, label - prediction
    groups: int = 0  # that were left out one by one; 0: images were

    @property
    def mae(self) -> float:
        """Mean absolute leave-one-out error, label units."""
        return float(self.errors.abs().mean())

    def predict(self, features: Tensor) -> Tensor:
        """Return predictions (N,) float64 for features (N, D)."""
        return features.double() @ self.weight + self.intercept


def ridge(
    features: Tensor,
    labels: Tensor,
    penalties: Sequence[float] = PENALTIES,
    groups: Sequence[str] = (),
) -> Ridge:
    """Fit a ridge regression; the penalty has the smallest mean squared leave-one-out error.

    Features are centred and divided by their standard deviations. With the hat matrix H of the
    centred fit, a fit without the images g is off on them by
    e_g = (I - 1/N - H_gg)^-1 (y_g - yhat_g): exact, for a penalty N a and standard deviations of
    all images. One eigendecomposition serves all penalties.

    Args:
        features: (N, D) float.
        labels: (N,) label units.
        penalties: Tried, per image.
        groups: (N,) names: whole groups are left out. Photos of one person or plant are so alike
            that an image left out alone would ask for hardly any penalty. Empty, or where there is
            one group or an image without: single images.

    Source:
        Allen's PRESS statistic; Golub, Heath and Wahba, "Generalized cross-validation as a method
        for choosing a good ridge parameter" (1979), section 1.
    """
    x, y = features.double(), labels.double()
    count = len(x)
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    scale = torch.where(deviation > 1e-12 * deviation.max(), deviation, torch.inf)  # constant: 0
    x, centre = (x - mean) / scale, y.mean()
    y = y - centre
    if count > x.shape[1]:
        eigenvalues, vectors = torch.linalg.eigh(x.T @ x)  # (D,), (D, D)
        rotated = x @ vectors  # (N, r)
    else:
        eigenvalues, vectors = torch.linalg.eigh(x @ x.T)  # (N,), (N, N)
        rotated = vectors * eigenvalues.clamp_min(0).sqrt()
    eigenvalues = eigenvalues.clamp_min(0)
    along = rotated.T @ y  # (r,)
    parts = _rows_of(groups)
    best: tuple[float, float, Tensor] | None = None
    for penalty in penalties:
        shrunk = 1 / (eigenvalues + penalty * count)
        errors = _left_out_errors(rotated, shrunk, y - rotated @ (along * shrunk), parts)
        loss = float(errors.square().mean())
        if best is None or loss < best[0]:
            best = (loss, penalty, errors)
    assert best is not None
    _, penalty, errors = best
    shrunk = 1 / (eigenvalues + penalty * count)
    if count > x.shape[1]:
        weight = vectors @ (along * shrunk)
    else:
        weight = x.T @ (vectors @ ((vectors.T @ y) * shrunk))
    weight = weight / scale
    intercept = float(centre - mean @ weight)
    return Ridge(weight, intercept, penalty, labels.double(), errors, len(parts))


def _rows_of(groups: Sequence[str]) -> list[Tensor]:
    """Return the rows of each group; none where single images are to be left out."""
    names = set(groups)
    if len(names) < 2 or "" in names:
        return []
    return [torch.tensor([i for i, g in enumerate(groups) if g == name]) for name in sorted(names)]


def _left_out_errors(
    rotated: Tensor, shrunk: Tensor, residuals: Tensor, parts: Sequence[Tensor]
) -> Tensor:
    """Return the errors (N,) of fits without the image itself, or without its part.

    Args:
        rotated: (N, r) features along the eigenvectors.
        shrunk: (r,) 1 / (eigenvalue + penalty).
        residuals: (N,) of the fit on all images.
        parts: Rows that are left out together.
    """
    count = len(residuals)
    if not parts:
        left = 1 - 1 / count - rotated.square() @ shrunk
        return residuals / left.clamp_min(1e-9)
    errors = torch.empty_like(residuals)
    for rows in parts:
        part = rotated[rows]
        left = torch.eye(len(rows), dtype=part.dtype) - 1 / count - (part * shrunk) @ part.T
        errors[rows] = torch.linalg.solve(left, residuals[rows])
    return errors


def logistic_spread(errors: Tensor, task: Task) -> float:
    """Return the scale of a logistic distribution with these errors' mean size, label units.

    The mean size of a logistic variable of scale s is 2 ln(2) s. It is at least a millionth of the
    range.
    """
    return max(float(errors.abs().mean()) / (2 * math.log(2)), 1e-6 * task.label_range)


@dataclass(frozen=True)
class ProbeFit:
    """A linear probe of a model's image tower, as it is before training."""

    model: NumClip
    train: Sequence[Sample]
    val: Sequence[Sample]
    preprocessing: Preprocessing  # as for validation: no random crop, no flip
    workers: int = 0  # processes that load images
    skip_broken: bool = False  # leave out images that cannot be read

    @property
    def ridge(self) -> Ridge:
        """The fit on at most 5,000 of the training images, spread evenly over them.

        Raises:
            ImageError: if an image cannot be read.
        """
        return self._fitted[0]

    @cached_property
    def _fitted(self) -> tuple[Ridge, tuple[str, ...]]:
        """The fit, and the group of each image that it was fitted to."""
        step = max(1, math.ceil(len(self.train) / MAX_IMAGES))
        features, labels, groups = self._features(self.train[::step])
        return ridge(features, labels, groups=groups), tuple(groups)

    def mae(self) -> float:
        """Return the validation MAE, label units: what a fine-tuning of the tower has to beat."""
        features, labels, _ = self._features(self.val)
        edges = self.model.task.bin_edges
        predicted = self.ridge.predict(features).clamp(edges[0], edges[-1])
        return float((predicted - labels).abs().mean())

    def start(self) -> str:
        """Give the model's head the fitted line; return a line about it for people."""
        head, fit, task = self.model.regressor, self.ridge, self.model.task
        assert isinstance(head, Probe)
        head.set_line(fit.weight, fit.intercept, logistic_spread(fit.errors, task))
        mae = f"{task.number(fit.mae, 3)} {visible(task.unit)}".rstrip()
        return (
            f"linear probe: leave-one-{'group-' if fit.groups else ''}out MAE {mae} on "
            f"{len(fit.errors):,} training images, penalty {fit.penalty:.2g}"
        )

    @torch.no_grad()
    def left_out(self) -> Outputs | None:
        """Return what the head says of each training image by a line fitted without its group.

        Such outputs err as those of images of new groups do, by a little more even, since the line
        itself knows one group more. None where training images have no groups.

        Source:
            The residuals of the jackknife+ and CV+: Barber, Candes, Ramdas and Tibshirani,
            "Predictive inference with the jackknife+" (arXiv 1905.02928).
        """
        head, fit, task = self.model.regressor, self.ridge, self.model.task
        assert isinstance(head, Probe)
        if not fit.groups:
            return None
        out = head.around((fit.labels - fit.errors).float().to(head.thresholds.device))
        values = point_estimate(task, out.fine, out.bin_probs)
        return Outputs(
            values.double().cpu().numpy(),
            out.logits.double().cpu().numpy(),
            fit.labels.numpy() + task.label_offset,
            self._fitted[1],
        )

    def metrics(self) -> dict[str, float]:
        """Return the validation metrics of the model, whose head has the fitted line."""
        checkpoint = Checkpoint(self.model.eval(), self.preprocessing)
        samples = still_readable(self.val, "validation", skip=self.skip_broken)
        return validation_metrics(
            predictions_of_checkpoint(checkpoint, samples, workers=self.workers)
        )

    @torch.no_grad()
    def _features(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, list[str]]:
        """Return features (N, D) float32, labels (N,) without offset and groups, on the CPU."""
        task, tower = self.model.task, self.model.image_encoder
        broken: Broken = "mark" if self.skip_broken else "raise"
        data = ImageDataset(samples, task, evaluation_transform(self.preprocessing), broken=broken)
        home, training = self.model.logit_scale.device, tower.training
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # of this process of torchrun
        device = torch.device(gpu) if torch.cuda.is_available() else home
        tower.eval().to(device)
        features, labels = [], []
        with loading_faults(self.workers):
            loader = DataLoader(
                data, FEATURE_BATCH, num_workers=self.workers, worker_init_fn=quiet_when_left
            )
            for images, label, _ in loader:
                features.append(tower(images.to(device)).float().cpu())
                labels.append(label)
        tower.train(training).to(home)
        kept = ~torch.cat(labels).isnan()
        groups = [sample.group for sample, k in zip(samples, kept.tolist(), strict=True) if k]
        return torch.cat(features)[kept], torch.cat(labels)[kept] - task.label_offset, groups
