"""The numbers that a monitor follows: what the model says, and how its input looks.

The input is the array that the network gets anyway, so that nothing is decoded twice. Of it about
32 rows are looked at, which takes 64 us for 224 x 224 pixels; all rows would take 271.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from numclip_runtime.monitor.reference import Numbers

# Of a prediction, in this order: its value and the width of its interval, label units; the entropy
# of its bins, from 0 (one bin is certain) to 1 (all are alike)
OUTPUT_STATISTICS = ("value", "interval width", "bin entropy")
# Of the network's input, in this order, in grey levels from 0 to 255: mean; standard deviation;
# mean step between neighbours in a row; the mean step of those steps, as a ratio to it, which noise
# raises more than edges do; mean red less green, and blue less green
INPUT_STATISTICS = ("brightness", "contrast", "sharpness", "grain", "red cast", "blue cast")
STATISTICS = OUTPUT_STATISTICS + INPUT_STATISTICS

ROWS = 32  # at most, of an input
# After the point. The cast of a grey photo is 0 but for float32 rounding, 1e-5, which differs
# between training and runtime: a monitor would see another world in it
DIGITS = 3


class Predicted(Protocol):
    """The part of a `Prediction` that is followed."""

    @property
    def value(self) -> float:
        """Label units."""
        ...

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), label units; None: not calibrated."""
        ...

    @property
    def bin_probs(self) -> dict[str, float]:
        """Phrase -> probability."""
        ...


def output_statistics(prediction: Predicted) -> tuple[float, float, float]:
    """Return `OUTPUT_STATISTICS` of a prediction; NaN for the width where there is no interval."""
    ends = prediction.interval
    width = math.nan if ends is None else ends[1] - ends[0]
    probs = prediction.bin_probs.values()
    entropy = -sum(p * math.log(p) for p in probs if p > 0) / math.log(max(len(probs), 2))
    return prediction.value, width, entropy


def input_statistics(
    inputs: npt.NDArray[Any], mean: Sequence[float], std: Sequence[float]
) -> Numbers:
    """Return `INPUT_STATISTICS` of network inputs.

    Args:
        inputs: (B, 3, H, W) float32, normalised RGB planes, or (B, H, W, 3) uint8 RGB.
        mean: Of the normalisation, RGB, of pixels in [0, 1].
        std: Of the normalisation.

    Returns:
        (B, 6).
    """
    return np.array([_of_one(each, mean, std) for each in inputs])


def _of_one(
    one: npt.NDArray[Any], mean: Sequence[float], std: Sequence[float]
) -> tuple[float, ...]:
    if one.dtype == np.uint8:
        rows = one[:: max(1, len(one) // ROWS)]  # (H', W, 3)
        planes = np.ascontiguousarray(rows.transpose(2, 0, 1), np.float32)  # (3, H', W)
        scales, shifts = [1.0] * 3, [0.0] * 3
    else:
        planes = np.ascontiguousarray(one[:, :: max(1, one.shape[1] // ROWS)])
        scales, shifts = ([255 * number for number in numbers] for numbers in (std, mean))
    sums = planes.reshape(3, -1).sum(1).tolist()
    middle = planes[1]  # green: most of what the eye sees, and of what a camera measures
    flat, size, unit = middle.ravel(), middle.size, scales[1]
    red, green, blue = (
        total / size * scale + shift
        for total, scale, shift in zip(sums, scales, shifts, strict=True)
    )
    spread = math.sqrt(max(float(np.dot(flat, flat)) / size - (sums[1] / size) ** 2, 0.0))
    steps = middle[:, 1:] - middle[:, :-1]  # (H', W - 1)
    bends = steps[:, 1:] - steps[:, :-1]
    step, bend = (float(np.abs(each).sum()) / max(each.size, 1) for each in (steps, bends))
    found = (
        (red + green + blue) / 3,
        spread * unit,
        step * unit,
        bend / step if step > 0 else 0.0,
        red - green,
        blue - green,
    )
    return tuple(round(number, DIGITS) + 0.0 for number in found)  # no -0.0
