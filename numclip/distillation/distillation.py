"""A whole distillation, from images to the report; importing it loads no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numclip.data.samples import write_csv
from numclip.distillation.distill_options import DistillOptions
from numclip.distillation.taught_data import found_images, taught_data
from numclip.training.run_folder import (
    check_run_folder,
    finish,
    save_run_file,
    stopping_kept,
)
from numclip.training.start import check_start
from numclip_runtime import UsageError
from numclip_runtime.console import say, show
from numclip_runtime.errors import require
from numclip_runtime.files import refuse_overwriting, require_writable
from numclip_runtime.model_files.given import CHECKPOINT_SUFFIXES, require_checkpoint

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from numclip.checkpoint import Checkpoint
    from numclip.training.config import TrainConfig


@dataclass(frozen=True)
class DistillResult:
    """A finished distillation."""

    checkpoint: Checkpoint  # the student, as written
    report: dict[str, Any]  # as written beside it
    calibration: str  # line about the intervals, for people


def distill(
    options: DistillOptions, *, callbacks: Sequence[Callback] = (), run_file: str = ""
) -> DistillResult:
    """Teach a student its teacher's numbers, and write its checkpoint if the trade is one.

    Prints what `numclip-distill` prints.

        >>> from pathlib import Path
        >>> from numclip import DistillOptions, distill
        >>> options = DistillOptions(Path("big.pt"), "small.json", images=Path("photos"))
        >>> distill(options).report["loss"]["mean_difference"]                # doctest: +SKIP

    Args:
        options: See `DistillOptions`.
        callbacks: Lightning callbacks of your own (`pytorch_lightning.Callback`).
        run_file: Text of run.toml, which `numclip-distill --config` reads; "" writes none.

    Raises:
        UsageError: if an option or a data source cannot be used, or training diverges.
        ModelError: if a checkpoint cannot be read, or the tasks differ.
        TradeError: if the student is no faster, or loses more than is allowed; then only the run
            folder is left, with which `resume` goes on.
        MissingDependencyError: if a package is not installed that an option needs.
        ImageError: if an image cannot be read.
    """
    training, run_dir = options.training or options.recipe(), options.run_folder
    _refuse_early(options, training)
    require("train", "torch")

    from numclip.checkpoint import load_checkpoint, save_checkpoint
    from numclip.distillation.distill_report import report_of, table_of, write_distill_report
    from numclip.distillation.judgement import judge
    from numclip.distillation.lesson import teach
    from numclip.distillation.student import initial_student
    from numclip.distillation.trade import costs, require_accepted, require_faster

    teacher = load_checkpoint(options.teacher)
    task = teacher.task
    # Tables and folders take no time, both networks seconds, images minutes: in this order
    found = found_images(options, task)
    start = initial_student(options, teacher, training)
    before, after = costs(teacher, start)
    require_faster(before, after)
    data = taught_data(options, task, found)
    images = {sample.file for part in (data.train, data.val, data.test) for sample in part}
    for path in (options.output, options.report):
        refuse_overwriting(path, images, "an image")
    show("\n".join(data.lines()))
    for warning in data.warnings:
        say(f"Warning: {warning}")
    if options.restart:  # no earlier: unreadable data leave the old run alone
        finish(run_dir)
    save_run_file(run_dir, run_file)
    with stopping_kept(run_dir):
        taught = teach(options, training, teacher, start, data, callbacks)
        judgement = judge(options, teacher, taught, data)
        loss = judgement.loss
        require_accepted(
            loss,
            task,
            f"{options.output} is not written. More images, more --epochs or a larger --student "
            f"may help; --resume with a higher --max-loss takes the student of {run_dir} as it is.",
        )
        report = report_of(options, teacher, taught, data, (before, after), judgement)
        if taught.validation is not None and options.val is None:  # as of numclip-train
            write_csv(taught.validation, data.val)
        save_checkpoint(options.output, taught.student)
        write_distill_report(options.report, report)
    finish(run_dir)
    show("\n".join(table_of(report, task)))
    return DistillResult(taught.student, report, taught.line)


def _refuse_early(options: DistillOptions, training: TrainConfig) -> None:
    """Refuse wrong use before images are checked, files written, or torch is imported."""
    if options.output.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise UsageError(f"{options.output}: the name must end in .pt or .safetensors.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a distillation runs in one process; start it without torchrun.")
    require_checkpoint(options.teacher, "give --teacher the checkpoint that it was made from")
    if options.student_checkpoint is not None:
        require_checkpoint(options.student_checkpoint, "give --student a checkpoint or a backbone")
        check_start(None, None, training, ())
    else:
        check_start(options.student, options.pretrained, training, ())
    for path in (options.output, options.report):
        require_writable(path)
        inputs = (options.teacher, options.student, options.data, options.val, options.test)
        refuse_overwriting(path, filter(None, inputs), "an input")
    check_run_folder(options.run_folder, resume=options.resume, restart=options.restart)
