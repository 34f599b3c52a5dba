"""Parity: an artefact agrees with its checkpoint on images, or it is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from numclip.checkpoint import Checkpoint
from numclip.sources import read_samples
from numclip_runtime import NumclipError, Predictor
from numclip_runtime.files import find_images
from numclip_runtime.preprocess import FloatArray, preprocess

IMAGES = 64  # images compared, in batches of each size below
BATCH_SIZES = (1, 8)
PROB_TOLERANCE = 1e-3  # absolute, of a probability


class ParityError(NumclipError, ArithmeticError):
    """The artefact's predictions differ from the checkpoint's beyond the tolerance."""


@dataclass(frozen=True)
class Parity:
    """Largest differences between an artefact and its checkpoint."""

    source: str  # "validation", "given" or "synthetic" images
    images: int
    value_tolerance: float  # label units
    max_value_error: float  # label units
    mean_value_error: float  # label units
    max_prob_error: float  # absolute, of a probability

    @property
    def passed(self) -> bool:
        """Tell whether both differences are within tolerance (False for NaN)."""
        return (
            self.max_value_error <= self.value_tolerance and self.max_prob_error <= PROB_TOLERANCE
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {**asdict(self), "prob_tolerance": PROB_TOLERANCE, "passed": self.passed}


def verification_inputs(
    checkpoint: Checkpoint, verify_data: Path | None = None
) -> tuple[str, FloatArray]:
    """Collect preprocessed images to compare on.

    Args:
        checkpoint: Gives the preprocessing, and the place of its validation data.
        verify_data: Folder of images, or a file that `read_samples` reads; None takes the
            checkpoint's validation data, and where that is gone, synthetic images.

    Returns:
        Where they come from, and the array (N, 3, H, W) float32, N <= 64.
    """
    if verify_data is not None:
        paths = _image_paths(verify_data, checkpoint)
        return "given", _load(paths, checkpoint)
    if checkpoint.validation_csv is not None:
        try:
            return "validation", _load(
                _image_paths(Path(checkpoint.validation_csv), checkpoint, known=True), checkpoint
            )
        except (NumclipError, OSError):
            pass  # data has moved since training; the report says "synthetic"
    return "synthetic", np.stack(list(_synthetic(checkpoint.preprocessing.crop)))


def _image_paths(source: Path, checkpoint: Checkpoint, *, known: bool = False) -> list[str]:
    """List images of a source; `known`: its relative paths start where training said."""
    if source.is_dir():
        return find_images([str(source)])
    root = Path(checkpoint.validation_root) if known and checkpoint.validation_root else None
    return [str(sample.path) for sample in read_samples(source, checkpoint.task, root)]


def _load(paths: list[str], checkpoint: Checkpoint) -> FloatArray:
    chosen = np.linspace(0, len(paths) - 1, min(IMAGES, len(paths))).round().astype(int)
    return np.stack([preprocess(paths[i], checkpoint.preprocessing) for i in chosen])


def _synthetic(side: int) -> Iterator[FloatArray]:
    """Yield smooth, textured and noisy images in normalised range."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    for i in range(IMAGES):
        direction, frequency = rng.normal(size=(3, 2)), rng.uniform(0, 30, (3, 1, 1))
        phase = direction[:, :1, None] * x + direction[:, 1:, None] * y
        noise = rng.normal(size=(3, side, side)) * (i / IMAGES)
        yield (np.sin(frequency * phase) * 1.5 + noise).astype(np.float32)


def compare(
    checkpoint: Checkpoint,
    predictor: Predictor,
    inputs: FloatArray,
    source: str,
    value_tolerance: float,
) -> Parity:
    """Compare an artefact with its unfolded checkpoint, both with the temperature applied.

    Args:
        checkpoint: Reference, run in torch.
        predictor: The artefact, opened by the runtime.
        inputs: (N, 3, H, W) float32.
        source: Where the inputs come from.
        value_tolerance: Largest difference allowed, label units.
    """
    with torch.inference_mode():
        text = checkpoint.model.text_features()
        parts = [
            checkpoint.outputs(part, text)
            for part in torch.split(torch.from_numpy(inputs), max(BATCH_SIZES))
        ]
    values, bin_probs = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    value_errors, prob_errors = [], []
    for size in BATCH_SIZES:
        for start in range(0, len(inputs), size):
            window = slice(start, start + size)
            got_values, got_probs = predictor.backend.run(inputs[window])
            value_errors.append(np.abs(got_values - values[window]))
            prob_errors.append(np.abs(got_probs - bin_probs[window]).max(1))
    value_error, prob_error = np.concatenate(value_errors), np.concatenate(prob_errors)
    return Parity(
        source=source,
        images=len(inputs),
        value_tolerance=value_tolerance,
        max_value_error=float(value_error.max()),
        mean_value_error=float(value_error.mean()),
        max_prob_error=float(prob_error.max()),
    )
