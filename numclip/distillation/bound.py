"""Intervals of a student without labels, from those of its teacher.

Let the teacher's interval hold the label with a probability of at least 1 - a, and let r be its
half-width for an image. The label then lies within r + |student - teacher| of the student's number
for as many images. Half-widths `factor * scale` of the student's own are at least that for 1 - b
of the images like those held out, where the factor is the conformal quantile of the level 1 - b of
(r + |student - teacher|) / scale over these. Both hold for 1 - a - b of the images (the union
bound): the stated coverage. Of it, the teacher's interval of the smallest fitted coverage that
leaves each side a half takes its part, the quantile the rest: 90 % are the teacher's 95 % less 5 %.

The promise is for images that are like both the calibration's of the teacher and those held out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from numclip.evaluation.calibration import COVERAGES, FLOORS, fit_temperature, scale_numbers
from numclip.evaluation.predictions import RawOutputs, log_softmax
from numclip.evaluation.quantiles import conformal_quantile
from numclip_runtime import Calibration, Task
from numclip_runtime.calibration import DEFAULT_COVERAGE, Array, scales


class Answers(NamedTuple):
    """What both networks say of the same N images, before any calibration."""

    student: RawOutputs
    teacher: RawOutputs

    @property
    def distances(self) -> Array:
        """|student - teacher|, (N,), label units."""
        return np.abs(self.student.values - self.teacher.values)


def teachers_level(calibration: Calibration, coverage: float) -> float | None:
    """Return the teacher's coverage that a student's rests on; None if there is none."""
    fitted = (level for level in calibration.coverages if 1 - level <= (1 - coverage) / 2 + 1e-9)
    level = next(fitted, None)
    return None if level is None or calibration.promised(level) <= coverage else level


def bounded_calibration(
    kept: Answers, tuning: Answers, teacher: Calibration, task: Task
) -> Calibration:
    """Fit temperature and intervals of a student without labels.

    Args:
        kept: Of images that chose nothing; these fit the factors.
        tuning: Of images that choose temperature and floor of the scale.
        teacher: The teacher's calibration.
        task: Of both.

    Returns:
        The calibration; coverages are left out for which the teacher's, or the images, are too
        few.
    """
    told = np.exp(log_softmax(tuning.teacher.logits / teacher.temperature))
    temperature = fit_temperature(tuning.student.logits, told)
    fitted: dict[float, float] = {}
    floor = _floor(tuning, teacher, task, temperature)
    for coverage in COVERAGES:
        level = teachers_level(teacher, coverage)
        if level is not None:
            rest = 1 - teacher.promised(level) + coverage
            scores = needed(kept, teacher, task, level) / _scale(kept, task, temperature, floor)
            fitted[coverage] = conformal_quantile(scores, rest)
    finite = {coverage: factor for coverage, factor in fitted.items() if factor < math.inf}
    factors = np.maximum.accumulate([*finite.values()]) if finite else np.empty(0)
    return Calibration(
        temperature=temperature,
        scale_floor=floor,
        coverages=tuple(finite),
        factors=tuple(factors.tolist()),
        images=len(kept.distances),
        measured_from=scale_numbers(task),
        groups=teacher.groups,  # what the teacher promises is for new groups
    )


def needed(answers: Answers, teacher: Calibration, task: Task, level: float) -> Array:
    """Return r + |student - teacher| of N images, (N,), label units: see the module."""
    told = answers.teacher
    probs = np.exp(log_softmax(told.logits / teacher.temperature))
    factor = teacher.factors[teacher.coverages.index(level)]
    half = factor * scales(told.values, probs, task, teacher.scale_floor, teacher.measured_from)
    sum_of_both: Array = half + answers.distances
    return sum_of_both


def _scale(answers: Answers, task: Task, temperature: float, floor: float) -> Array:
    probs = np.exp(log_softmax(answers.student.logits / temperature))
    return scales(answers.student.values, probs, task, floor, scale_numbers(task))


def _floor(answers: Answers, teacher: Calibration, task: Task, temperature: float) -> float:
    """Return the floor of the scale, label units, with the narrowest intervals."""
    level = teachers_level(teacher, DEFAULT_COVERAGE) or teacher.coverages[-1]
    least = needed(answers, teacher, task, level)
    size = max(float(least.mean()), 1e-6 * task.label_range)

    def width(floor: float) -> float:
        scale = _scale(answers, task, temperature, floor)
        return float(np.quantile(least / scale, DEFAULT_COVERAGE) * scale.mean())

    return min((share * size for share in FLOORS), key=width)
