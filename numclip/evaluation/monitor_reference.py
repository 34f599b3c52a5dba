"""The reference that a monitor of the model's use compares with, from the calibration's images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numclip.data.samples import Sample
from numclip.evaluation.predictions import RawOutputs, groups_of, log_softmax
from numclip_runtime import Calibration, Task
from numclip_runtime.calibration import Array
from numclip_runtime.monitor.reference import MonitorReference, reference_of
from numclip_runtime.monitor.statistics import STATISTICS


def monitor_reference(
    outputs: Sequence[RawOutputs],
    samples: Sequence[Sample],
    calibration: Calibration,
    task: Task,
) -> MonitorReference | None:
    """Return the distributions of a model's statistics over images that training has not seen.

    Args:
        outputs: Parts, joined.
        samples: (N,) the images of the outputs. Of each group one counts, the first: images of a
            group resemble each other, and a monitor's odds are those of independent images.
        calibration: Of the model; already fitted on these images.
        task: Of the model.

    Returns:
        The reference; None if there are too few images, see `reference_of`.
    """
    values, logits, looks = (np.concatenate(column) for column in zip(*outputs, strict=True))
    bin_probs = np.exp(log_softmax(logits / calibration.temperature))  # (N, K)
    ends = calibration.intervals(values, bin_probs, task)
    widths = np.full(len(values), np.nan) if ends is None else ends[:, 1] - ends[:, 0]
    entropy = _entropy(bin_probs)
    rows = np.column_stack([values, widths, entropy, looks])
    groups = groups_of(samples)
    chosen = sorted({group: i for i, group in reversed([*enumerate(groups)])}.values())
    return reference_of(rows[chosen] if groups else rows, STATISTICS)


def _entropy(bin_probs: Array) -> Array:
    """Return the entropy of (N, K) probabilities, (N,), from 0 to 1."""
    logs = np.log(bin_probs, where=bin_probs > 0, out=np.zeros_like(bin_probs))
    entropy: Array = -(bin_probs * logs).sum(1) / np.log(max(bin_probs.shape[1], 2))
    return entropy
