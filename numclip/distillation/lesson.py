"""The lesson: the student learns, and gets its intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from numclip.checkpoint import Checkpoint
from numclip.data.checks import still_readable
from numclip.data.columns import PLAIN_TABLE
from numclip.data.samples import Sample
from numclip.data.subsets import ValidationParts, calibration_split
from numclip.distillation.bound import Answers, bounded_calibration
from numclip.distillation.distill_options import DistillOptions
from numclip.distillation.taught_data import TaughtData
from numclip.distillation.teaching import DistillModule, Weights
from numclip.distillation.views import PairedView
from numclip.evaluation.calibration import calibrate, describe_calibration
from numclip.evaluation.monitor_reference import monitor_reference
from numclip.evaluation.predictions import RawOutputs, raw_outputs
from numclip.torchvision_compat import import_torchvision
from numclip.training.config import TrainConfig
from numclip.training.fit import Teaching, fit
from numclip_runtime import Calibration, Task, UsageError
from numclip_runtime.console import show
from numclip_runtime.files import sha256

import_torchvision()
from pytorch_lightning import Callback  # noqa: E402


@dataclass(frozen=True)
class Taught:
    """A student after the lesson."""

    student: Checkpoint
    line: str  # about its intervals, for people
    held_out: list[Sample]  # without labels, these are the teacher's numbers
    answers: Answers  # of both, on `held_out`
    parts: ValidationParts  # `held_out` by use
    validation: Path | None  # file of the labelled ones among them


def teach(
    options: DistillOptions,
    training: TrainConfig,
    teacher: Checkpoint,
    student: Checkpoint,
    data: TaughtData,
    callbacks: Sequence[Callback] = (),
) -> Taught:
    """Train a student in place, and fit its intervals.

    The epoch is chosen by the labels of the held-out images; without, by the teacher's numbers.

    Args:
        options: Resume, weights of the loss, data.
        training: How to train.
        teacher: Left as it is.
        student: Before the first step.
        data: Its images.
        callbacks: Lightning callbacks of your own.
    """
    task, skip = teacher.task, options.skip_broken
    run = partial(_outputs, batch_size=training.batch_size, workers=training.workers)
    held_out = still_readable(data.val, "held-out", skip=skip)
    told = run(teacher, held_out)
    if not data.labelled:
        numbers = told.values.tolist()
        held_out = [replace(s, label=v) for s, v in zip(held_out, numbers, strict=True)]
        show("without labels, MAE and bins below are those against the teacher")
    parts = calibration_split(held_out, options.calibration_share, task, seed=training.seed)
    show(parts.note)
    best = fit(
        student.model,
        data.train,
        parts.choosing,
        student.preprocessing,
        training,
        run_dir=options.run_folder,
        resume=options.resume,
        skip_broken=skip,
        callbacks=callbacks,
        teaching=_teaching(options, teacher, student, training),
    )
    student = replace(student, metrics=best if data.labelled else _renamed(best))
    validation = None
    if data.labelled:
        validation = options.val or options.output.with_suffix(".val.csv")
        given = options.val is not None
        student, line = calibrate(
            replace(
                student,
                validation_csv=str(validation),
                validation_root=str(options.root) if given and options.root else None,
                validation_table=options.table if given else PLAIN_TABLE,
            ),
            parts.kept or parts.choosing,
            tuning=parts.choosing if parts.kept else [],
            chose_epoch=not parts.kept,
            batch_size=training.batch_size,
            workers=training.workers,
        )
        answers = Answers(run(student, held_out), told)
    else:
        answers = Answers(run(student, held_out), told)
        student, line = _by_the_teacher(student, teacher.calibration, answers, held_out, parts)
    return Taught(student, line, held_out, answers, parts, validation)


def _outputs(
    checkpoint: Checkpoint, samples: Sequence[Sample], *, batch_size: int, workers: int
) -> RawOutputs:
    outputs = raw_outputs(checkpoint, samples, batch_size=batch_size, workers=workers)
    if not (np.isfinite(outputs.values).all() and np.isfinite(outputs.logits).all()):
        raise UsageError("the teacher's or the student's numbers are not finite.")
    return outputs


def _teaching(
    options: DistillOptions, teacher: Checkpoint, student: Checkpoint, training: TrainConfig
) -> Teaching:
    weights = Weights(options.temperature, options.value_weight, options.label_weight)
    seen = {spec: spec.crop**2 for spec in (student.preprocessing, teacher.preprocessing)}
    return Teaching(
        partial(DistillModule, teacher=teacher.model, weights=weights),
        PairedView(student.preprocessing, teacher.preprocessing, flip=training.flip),
        math.ceil(math.sqrt(sum(seen.values()))),
        {
            "teacher": sha256(options.teacher),
            "loss": [weights.temperature, weights.value, weights.label],
        },
    )


def _renamed(best: dict[str, float]) -> dict[str, float]:
    """Return metrics against the teacher by names that no one takes for those against labels."""
    return {
        "difference_to_teacher": best["mae"],
        "rms_difference_to_teacher": best["rmse"],
        "bins_as_teacher": best["bin_accuracy"],
    }


def _by_the_teacher(
    student: Checkpoint,
    teacher: Calibration | None,
    answers: Answers,
    held_out: Sequence[Sample],
    parts: ValidationParts,
) -> tuple[Checkpoint, str]:
    """Fit intervals without labels; the line says so where there are none."""
    if teacher is None:
        return student, (
            "no intervals: there are no labels, and the teacher has none; calibrate the teacher, "
            "or give labelled images with --val"
        )
    task = student.task
    choosing = part_of(answers, held_out, parts.choosing)
    kept = part_of(answers, held_out, parts.kept) if parts.kept else choosing
    calibration = bounded_calibration(kept, choosing, teacher, task)
    said = answers.student
    reference = monitor_reference([said], held_out, calibration, task)
    line = _described(calibration, said, task)
    return replace(student, calibration=calibration, reference=reference), line


def part_of(answers: Answers, samples: Sequence[Sample], part: Sequence[Sample]) -> Answers:
    """Return the answers of some of the samples, in the order of these."""
    chosen = set(map(id, part))
    rows = np.array([id(sample) in chosen for sample in samples])
    return Answers(*(RawOutputs(*(column[rows] for column in outputs)) for outputs in answers))


def _described(calibration: Calibration, said: RawOutputs, task: Task) -> str:
    line = describe_calibration(calibration, said.values, said.logits, task)
    if not calibration.coverages:
        return f"{line}: the teacher's coverages, or the held-out images, are too few"
    return f"{line}; from the teacher's intervals and the difference to it, without labels"
