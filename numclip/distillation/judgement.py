"""The judgement of a student: what is lost on images that it has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from numclip.checkpoint import Checkpoint
from numclip.data.checks import still_readable
from numclip.data.samples import Sample
from numclip.distillation.bound import Answers, needed, teachers_level
from numclip.distillation.distill_options import DistillOptions
from numclip.distillation.lesson import Taught, part_of
from numclip.distillation.taught_data import TaughtData
from numclip.distillation.trade import Loss, measured_loss
from numclip.evaluation.metrics import interval_metrics
from numclip.evaluation.predictions import (
    Predictions,
    RawOutputs,
    labels_of,
    log_softmax,
    raw_outputs,
)
from numclip_runtime import Calibration, Task


@dataclass(frozen=True)
class Judgement:
    """What is lost, and whether intervals hold what they state."""

    loss: Loss
    # A row per fitted coverage, as `interval_metrics`; None: no image is left to measure it on.
    # Without labels, "coverage" is the share of images whose interval holds the teacher's.
    intervals: list[dict[str, float]] | None
    measured_on: str  # images of the rows, for people


def judge(
    options: DistillOptions, teacher: Checkpoint, taught: Taught, data: TaughtData
) -> Judgement:
    """Compare on the test images, or else on those held out."""
    answers, samples, labelled = taught.answers, taught.held_out, data.labelled
    if data.test:
        samples = still_readable(data.test, "test", skip=options.skip_broken)
        both = (raw_outputs(one, samples) for one in (taught.student, teacher))
        answers, labelled = Answers(*both), True
    loss = measured_loss(
        answers,
        samples,
        labelled=labelled,
        measured_on="test" if data.test else "held out",
        task=teacher.task,
        metrics=teacher.metrics,
        max_loss=options.max_loss,
    )
    if data.test:
        return Judgement(loss, _covered(taught.student, answers.student, samples), "test images")
    # Those that the factors were fitted on would hold what is stated in any case
    part = part_of(answers, samples, taught.parts.choosing) if taught.parts.kept else None
    calibration = taught.student.calibration
    if part is None or calibration is None:
        return Judgement(loss, None, "")
    where = "held-out images that chose the epoch, but not the intervals"
    if labelled:
        return Judgement(loss, _covered(taught.student, part.student, taught.parts.choosing), where)
    assert teacher.calibration is not None
    return Judgement(loss, _bounded(part, calibration, teacher.calibration, teacher.task), where)


def _covered(
    student: Checkpoint, outputs: RawOutputs, samples: Sequence[Sample]
) -> list[dict[str, float]]:
    probs = np.exp(log_softmax(outputs.logits / student.temperature))
    labels = labels_of(samples)
    found = Predictions(student.task, student.calibration, labels, outputs.values, probs)
    return interval_metrics(found)


def _bounded(
    answers: Answers, calibration: Calibration, teacher: Calibration, task: Task
) -> list[dict[str, float]]:
    """Return the share of images whose interval is as wide as the bound needs."""
    values, logits, _ = answers.student
    probs = np.exp(log_softmax(logits / calibration.temperature))
    rows = []
    for stated in calibration.coverages:
        level = teachers_level(teacher, stated)
        ends = calibration.intervals(values, probs, task, stated)
        assert level is not None
        assert ends is not None
        least = needed(answers, teacher, task, level)
        low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
        wanted = np.stack([values - least, values + least], 1).clip(low, high)
        holds = (ends[:, 0] <= wanted[:, 0] + 1e-9) & (wanted[:, 1] - 1e-9 <= ends[:, 1])
        width = ends[:, 1] - ends[:, 0]
        rows.append(
            {
                "stated": stated,
                "teachers_level": level,
                "coverage": float(holds.mean()),
                "mean_width": float(width.mean()),
                "median_width": float(np.median(width)),
            }
        )
    return rows
