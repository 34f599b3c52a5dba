"""Predictions on labelled images, by a checkpoint (torch) or an exported file (no torch).

Both kinds give the same `Predictions`, so that one set of metrics serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from numclip.data.columns import TableOptions
from numclip.data.readers import read_samples
from numclip.data.samples import Sample
from numclip.data.workers import check_shared_memory, loading_faults, quiet_when_left
from numclip.torchvision_compat import require_training
from numclip_runtime import (
    Calibration,
    ImageError,
    Predictor,
    Task,
    UsageError,
    load,
)
from numclip_runtime.calibration import Array
from numclip_runtime.console import say
from numclip_runtime.monitor.statistics import input_statistics

if TYPE_CHECKING:
    from numclip.checkpoint import Checkpoint


@dataclass(frozen=True)
class Predictions:
    """Predictions of N labelled images, in the order of the samples."""

    task: Task
    calibration: Calibration | None  # already applied to bin_probs
    labels: Array  # (N,) true numbers, label units
    values: Array  # (N,) predicted numbers, label units
    bin_probs: Array  # (N, K), calibrated
    groups: tuple[str, ...] = ()  # (N,) such as persons; empty: not known

    @property
    def bins(self) -> npt.NDArray[np.int64]:
        """True bins, (N,)."""
        return bins_of(self.labels, self.task)

    def intervals(self, coverage: float) -> Array:
        """Return the (N, 2) intervals of a fitted coverage, label units."""
        assert self.calibration is not None
        ends = self.calibration.intervals(self.values, self.bin_probs, self.task, coverage)
        assert ends is not None, "coverage must be one of calibration.coverages"
        return ends


class Outputs(NamedTuple):
    """What a model says of N labelled images, before any calibration."""

    values: Array  # (N,) predicted numbers, label units
    logits: Array  # (N, K)
    labels: Array  # (N,) true numbers, label units
    groups: tuple[str, ...]  # (N,) such as persons; empty: not known


class RawOutputs(NamedTuple):
    """What a checkpoint says of N images, before any calibration, and how they look."""

    values: Array  # (N,) predicted numbers, label units
    logits: Array  # (N, K)
    looks: Array  # (N, 6) `input_statistics` of the network's inputs


@dataclass(frozen=True)
class EvaluationSource(TableOptions):
    """A model file and the labelled images to evaluate it on.

    Raises:
        UsageError: unless exactly one of `ckpt` and `model` is given.
    """

    data: Path  # see `read_samples`
    ckpt: Path | None = None  # checkpoint of numclip-train; needs torch
    model: Path | None = None  # exported model
    root: Path | None = None  # where relative image paths start; None: beside `data`
    group_column: str | None = None  # column of `data`: coverage is measured by group as well
    batch_size: int = 32
    workers: int = 1  # that load images, in parallel
    fast_decode: bool = False  # of an exported model, see `numclip_runtime.load`

    def __post_init__(self) -> None:
        if (self.ckpt is None) == (self.model is None):
            raise UsageError("give either --ckpt (a checkpoint) or --model (an exported model).")
        if self.fast_decode and self.model is None:
            raise UsageError("--fast-decode applies to exported models; give one with --model.")

    @property
    def file(self) -> Path:
        """The model file."""
        file = self.ckpt or self.model
        assert file is not None
        return file

    def predictions(self) -> Predictions:
        """Run the model on the images.

        Raises:
            ModelError: if the model file cannot be read.
            UsageError: if the data cannot be read.
            ImageError: if an image cannot be read.
        """
        size, workers = self.batch_size, self.workers
        if self.ckpt is not None:
            require_training()
            from numclip.checkpoint import load_checkpoint

            checkpoint = load_checkpoint(self.ckpt)
            samples = self._samples(checkpoint.task)
            processes = workers if workers > 1 else 0
            return predictions_of_checkpoint(
                checkpoint, samples, batch_size=size, workers=processes
            )
        with load(self.file, fast_decode=self.fast_decode) as predictor:
            if predictor.choice is not None:  # of a bundle; the others give slightly other numbers
                say(predictor.choice)
            elif predictor.backend.precision == "bf16":  # other machines run it in float32
                say(f"{self.file.name} runs in bfloat16, as its export proved.")
            samples = self._samples(predictor.metadata.task)
            return predictions_of_model(predictor, samples, batch_size=size, workers=workers)

    def _samples(self, task: Task) -> list[Sample]:
        return read_samples(
            self.data, task, self.root, group_column=self.group_column, table=self.table
        )


def raw_outputs(
    checkpoint: Checkpoint, samples: Sequence[Sample], *, batch_size: int = 64, workers: int = 0
) -> RawOutputs:
    """Run a checkpoint with torch, on its device; leaves it in eval mode.

    Args:
        checkpoint: Model to run.
        samples: Images to read.
        batch_size: Images per run.
        workers: Processes that load images.
    """
    import torch
    from torch.utils.data import DataLoader

    from numclip.data.dataset import ImageDataset, evaluation_transform

    model = checkpoint.model.eval()
    transform = evaluation_transform(checkpoint.preprocessing)
    data = ImageDataset(samples, checkpoint.task, transform)
    check_shared_memory([(len(samples), batch_size)], checkpoint.preprocessing.crop, workers)
    values, logits, looks = [], [], []
    spec = checkpoint.preprocessing
    with torch.inference_mode(), loading_faults(workers):
        text_features = model.text_features()
        loader = DataLoader(data, batch_size, num_workers=workers, worker_init_fn=quiet_when_left)
        for images, _, _ in loader:
            out = model(images.to(model.logit_scale.device), text_features)
            values.append(out.values.cpu().double().numpy())
            logits.append(out.logits.cpu().double().numpy())
            looks.append(input_statistics(images.numpy(), spec.mean, spec.std))
    return RawOutputs(np.concatenate(values), np.concatenate(logits), np.concatenate(looks))


def predictions_of_checkpoint(
    checkpoint: Checkpoint, samples: Sequence[Sample], *, batch_size: int = 64, workers: int = 0
) -> Predictions:
    """Run a checkpoint with torch; see `raw_outputs`."""
    values, logits, _ = raw_outputs(checkpoint, samples, batch_size=batch_size, workers=workers)
    bin_probs = np.exp(log_softmax(logits / checkpoint.temperature))
    return Predictions(
        checkpoint.task,
        checkpoint.calibration,
        labels_of(samples),
        values,
        bin_probs,
        groups_of(samples),
    )


def predictions_of_model(
    predictor: Predictor, samples: Sequence[Sample], *, batch_size: int = 64, workers: int = 1
) -> Predictions:
    """Run an exported model as `numclip-run` does.

    Raises:
        ImageError: at the first image that cannot be read, because metrics of the others would
            not describe the data.
    """
    values, bin_probs = [], []
    images = [sample.image for sample in samples]
    for result in predictor.stream(images, batch_size=batch_size, workers=workers):
        if isinstance(result, ImageError):
            raise result
        values.append(result.value)
        bin_probs.append(list(result.bin_probs.values()))
    metadata = predictor.metadata
    return Predictions(
        metadata.task,
        metadata.calibration,
        labels_of(samples),
        np.array(values),
        np.array(bin_probs),
        groups_of(samples),
    )


def labels_of(samples: Sequence[Sample]) -> Array:
    """Return the labels, (N,), label units."""
    return np.array([sample.label for sample in samples], np.float64)


def bins_of(numbers: Array, task: Task) -> npt.NDArray[np.int64]:
    """Return the bins that N numbers lie in, label units; see `Task.bin_of`."""
    return np.array([task.bin_of(number) for number in numbers.tolist()], np.int64)


def groups_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the groups, (N,); a sample without one is a group of its own. Empty: none has one."""
    if not any(sample.group for sample in samples):
        return ()
    return tuple(sample.group or f"\0{i}" for i, sample in enumerate(samples))


def log_softmax(logits: Array) -> Array:
    """Return log probabilities of (N, K) logits."""
    shifted: Array = logits - logits.max(1, keepdims=True)
    log_probs: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return log_probs
