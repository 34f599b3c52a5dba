"""The student before its first step: a backbone with the teacher's task, or a checkpoint."""

from __future__ import annotations

from dataclasses import fields, replace

from numclip.checkpoint import Checkpoint, load_checkpoint
from numclip.data.prepare import DataConfig
from numclip.distillation.distill_options import DistillOptions
from numclip.model.preprocessing import STATISTICS, PreprocessingConfig, Statistics, image_size
from numclip.training.config import TrainConfig
from numclip.training.fit import seed_everything
from numclip.training.run import initial_model
from numclip.training.train_options import TrainOptions
from numclip_runtime import ModelError, Preprocessing, Task, UsageError
from numclip_runtime.console import visible

ONLY_BY_NAME = ("pretrained", "quick_gelu", "head", "features", "image_size", "resize", "normalize")


def initial_student(
    options: DistillOptions, teacher: Checkpoint, training: TrainConfig
) -> Checkpoint:
    """Return the student before the first step, drawn by the seed where it is random.

    A student by name has the teacher's task, head, form of regressor and geometry of images, and a
    learned vector for each bin in place of sentences: an exported model has these in any case.

    Raises:
        UsageError: if options, backbone and weights do not go together.
        ModelError: if the student's checkpoint cannot be read, or is of another task.
    """
    if options.student_checkpoint is not None:
        seed_everything(training.seed)
        return _started(options, teacher.task)
    head = options.head or teacher.model.config.head
    same_head = head == teacher.model.config.head
    name: Statistics = options.normalize or _name_of(teacher.preprocessing) or "imagenet"
    model = initial_model(
        TrainOptions(
            teacher.task,
            # not read: the images are those of the distillation
            DataConfig(options.teacher, val_share=options.val_share),
            backbone=options.student,
            pretrained=options.pretrained,
            quick_gelu=options.quick_gelu,
            features=options.features or "last",
            image_size=options.image_size,
            training=training,
            regressor=teacher.model.config.regressor if same_head else "bounded",
            label_offset=teacher.task.label_offset,
            head=head,
            grid_points=teacher.model.config.grid_points if same_head else None,
            vectors="prototypes",
            # as sharp as the teacher's can be; a probe has no use for it
            logit_scale=float(teacher.model.logit_scale.detach().exp()),
            preprocessing=PreprocessingConfig(normalize=name),
        )
    )
    return Checkpoint(model, _preprocessing(options, teacher.preprocessing, model.config.clip))


def _preprocessing(
    options: DistillOptions, teacher: Preprocessing, clip: dict[str, object]
) -> Preprocessing:
    """Return the teacher's preprocessing at the student's size."""
    crop = image_size(clip) * teacher.fragments
    # as far beyond the crop as the teacher's
    resize = max(crop, round(crop * teacher.resize / teacher.crop))
    spec = replace(teacher, crop=crop, resize=options.resize or resize)
    if options.normalize is None:
        return spec
    mean, std = STATISTICS[options.normalize]
    return replace(spec, mean=mean, std=std)


def _name_of(spec: Preprocessing) -> Statistics | None:
    """Return the name of pixel statistics; None if they have none."""
    found = [name for name, both in STATISTICS.items() if both == (spec.mean, spec.std)]
    return found[0] if found else None


def _started(options: DistillOptions, task: Task) -> Checkpoint:
    """Return a student that starts from a checkpoint's weights."""
    file = options.student_checkpoint
    assert file is not None
    for name in ONLY_BY_NAME:
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} has no effect with a student that is a checkpoint, "
                f"{visible(str(file))}: it has its own; leave it out."
            )
    student = load_checkpoint(file)
    if differing := different_fields(student.task, task):
        raise ModelError(
            f"{file}: is of another task than the teacher ({', '.join(differing)}); give a "
            "checkpoint of the same task, or a backbone."
        )
    return replace(student, metrics={}, calibration=None, reference=None)


def different_fields(task: Task, other: Task) -> list[str]:
    """Return the names of the fields in which two tasks differ."""
    return [f.name for f in fields(Task) if getattr(task, f.name) != getattr(other, f.name)]
