"""A whole training: data, backbone, fit, calibration, checkpoint; importing it loads no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from numclip.data.checks import still_readable, with_whole_numbers
from numclip.data.columns import PLAIN_TABLE
from numclip.data.prepare import data_report, prepare_data, read_sets
from numclip.data.samples import write_csv
from numclip.data.subsets import ValidationParts, calibration_split
from numclip.model.architectures import TIMM
from numclip.model.model_config import ModelConfig
from numclip.tasks import unreachable
from numclip.training.run_folder import check_run_folder, finish, save_run_file, stopping_kept
from numclip.training.start import check_start, random_start_warning
from numclip.training.train_options import TrainOptions as TrainOptions
from numclip_runtime import UsageError
from numclip_runtime.console import say, show
from numclip_runtime.errors import require
from numclip_runtime.files import refuse_overwriting, require_writable
from numclip_runtime.model_files.given import CHECKPOINT_SUFFIXES

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from numclip.checkpoint import Checkpoint
    from numclip.model.numclip import NumClip


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    checkpoint: Checkpoint  # as written, with its validation metrics
    calibration: str  # line about the calibration, for people
    test: dict[str, float] | None  # metrics of the test data; None where there is none


def train(
    options: TrainOptions, *, callbacks: Sequence[Callback] = (), run_file: str = ""
) -> TrainResult | None:
    """Train a model, calibrate it, and write its checkpoint; prints what `numclip-train` prints.

    Under torchrun, each process calls this.

        >>> from pathlib import Path
        >>> from numclip import DataConfig, TrainOptions, load_task, train
        >>> data = DataConfig(Path("train.csv"), val=Path("val.csv"))
        >>> options = TrainOptions(load_task("age"), data, pretrained="openai")
        >>> train(options).checkpoint.metrics["mae"]                         # doctest: +SKIP

    Args:
        options: See `TrainOptions`.
        callbacks: Lightning callbacks of your own (`pytorch_lightning.Callback`).
        run_file: Text of run.toml, which `numclip-train --config` reads; "" writes none.

    Returns:
        The result; None in all processes but the first.

    Raises:
        UsageError: if an option, the task or a data source cannot be used, or training diverges.
        MissingDependencyError: if a package is not installed that an option needs.
        ImageError: if an image cannot be read.
    """
    # Wrong use is refused first: before images are checked, files written, or torch imported.
    options = options.resolved()
    config, output = options.training, options.output
    assert config is not None
    if output.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise UsageError(f"{output}: the name must end in .pt or .safetensors.")
    require_writable(output)
    run_dir = options.run_dir or output.with_suffix(".run")
    first_process = os.environ.get("RANK", "0") == "0"
    if first_process:  # under torchrun, the others may start after it has begun to write
        check_run_folder(run_dir, resume=options.resume, restart=options.restart)
    loggers = (*options.loggers, *(("tensorboard",) if options.tensorboard else ()))
    check_start(options.backbone, options.pretrained, config, loggers)
    warning = random_start_warning(options.backbone, options.pretrained, options.recipe)
    if first_process and warning:
        say(f"Warning: {warning}")
    # Labels take no time, torch and the weights seconds, images minutes: in this order.
    sets = read_sets(options.data, options.task)
    learned = sets.samples["train"]
    task, notes = with_whole_numbers(options.task, learned + sets.samples.get("val", []))
    options = replace(options, task=task)
    assert options.regressor is not None
    if options.head == "numclip":
        notes += unreachable(task, options.regressor, (sample.label for sample in learned))
    require("train", "torch")
    model = initial_model(options)
    preprocessing = options.preprocessing.of(model.config.clip)
    data, warnings = prepare_data(options.data, options.task, sets)
    val_source = options.data.val or output.with_suffix(".val.csv")
    images = {sample.file for part in (data.train, data.val, data.test) for sample in part}
    refuse_overwriting(output, images, "an image")
    if options.data.val is None:
        refuse_overwriting(val_source, [options.data.train], "an input")
    closed_form = options.head == "probe" and config.tune == "none"
    share = options.data.calibration_share
    if closed_form and share is None:  # no epoch is chosen
        note = f"validation: all {len(data.val)} images fit the intervals"
        if any(sample.group for sample in data.train):
            note += ", beside those of training, each as seen by a line fitted without its group"
        parts = ValidationParts(data.val, [], note)
    else:
        parts = calibration_split(data.val, share, options.task, seed=options.data.seed)
    if first_process:
        show(data_report(data, options.task))
        show(parts.note)
        for warning in warnings + notes:
            say(f"Warning: {warning}")
        if options.data.val is None:  # the split is a file, for export and for comparisons
            write_csv(val_source, data.val)
        if options.restart:  # no earlier: unreadable data leave the old run alone
            finish(run_dir)
        save_run_file(run_dir, run_file)

    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.evaluation.calibration import calibrate
    from numclip.evaluation.metrics import validation_metrics
    from numclip.evaluation.predictions import predictions_of_checkpoint
    from numclip.training.fit import fit
    from numclip.training.probe import ProbeFit

    probe = ProbeFit(
        model, data.train, parts.choosing, preprocessing, config.workers, options.data.skip_broken
    )
    with stopping_kept(run_dir, speaks=first_process):
        if options.head == "probe":
            line = probe.start()
            if first_process:
                show(line)
        if closed_form:
            best = probe.metrics()
        else:
            # only the first process shows it
            compare = bool(options.pretrained) and not options.skip_probe and first_process
            best = fit(
                model,
                data.train,
                parts.choosing,
                preprocessing,
                config,
                run_dir=run_dir,
                resume=options.resume,
                loggers=loggers,
                skip_broken=options.data.skip_broken,
                callbacks=callbacks,
                baselines={"linear probe": probe.mae()} if compare else {},
            )
        if not first_process:
            return None
        tuning, skip = parts.choosing if parts.kept else [], options.data.skip_broken
        root = options.data.root if options.data.val else None
        place = None if root is None else str(root)
        table = options.data.table if options.data.val else PLAIN_TABLE
        checkpoint, line = calibrate(
            Checkpoint(model, preprocessing, best, str(val_source), place, table),
            still_readable(parts.kept or parts.choosing, "validation", skip=skip),
            tuning=still_readable(tuning, "validation", skip=skip),
            more=probe.left_out() if closed_form and not parts.kept else None,
            chose_epoch=not closed_form and not parts.kept,
            batch_size=config.batch_size,
            workers=config.workers,
        )
        save_checkpoint(output, checkpoint)
    finish(run_dir)
    test = None
    if data.test:
        samples = still_readable(data.test, "test", skip=skip)
        found = predictions_of_checkpoint(checkpoint, samples, batch_size=config.batch_size)
        test = validation_metrics(found)
    return TrainResult(checkpoint, line, test)


def initial_model(options: TrainOptions) -> NumClip:
    """Return the model before the first step, drawn by the seed where it is random.

    Args:
        options: Resolved.

    Raises:
        UsageError: if the backbone, its weights or the choices do not go together.
    """
    from numclip.model.backbone import image_config, load_backbone
    from numclip.model.heads import compared_phrases
    from numclip.model.numclip import NumClip
    from numclip.model.prototypes import text_vectors
    from numclip.model.timm_towers import say_other_statistics
    from numclip.training.fit import seed_everything

    assert options.training is not None
    assert options.regressor is not None
    seed_everything(options.training.seed)
    words = options.vectors == "words" and options.head != "probe"
    clip, clip_config = load_backbone(
        options.backbone,
        options.pretrained,
        quick_gelu=options.quick_gelu,
        words=words,
        levels=options.features == "levels",
        image_size=options.image_size,
    )
    if options.pretrained and options.backbone.startswith(TIMM):
        say_other_statistics(options.backbone.removeprefix(TIMM), options.preprocessing.normalize)
    text = "text_cfg" in clip_config
    if options.prototypes == "text" and not text:
        raise UsageError(
            "--prototypes text: there are no weights of a text tower to start from; give "
            "--pretrained with a CLIP model's, or --prototypes random."
        )
    config = ModelConfig(
        clip_config if words else image_config(clip_config),
        regressor=options.regressor,
        adapter_width=options.adapter_width,
        prompts=options.prompts,
        vectors=options.vectors,
        head=options.head,
        grid_points=options.grid_points,
        adapter_ratio=ModelConfig.adapter_ratio if options.head == "numclip" else 0.0,
    )
    model = NumClip(config, options.task, clip, logit_scale=options.logit_scale)
    if not words and text and options.head != "probe" and options.prototypes != "random":
        context, phrases = options.task.context, compared_phrases(config, options.task)
        sentences = [f"{context} {phrase}.".replace("_", " ") for phrase in phrases]
        model.prototypes.weight.data.copy_(text_vectors(clip, clip_config, sentences))
    return model
