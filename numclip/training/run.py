"""A whole training: data, backbone, fit, calibration, checkpoint; importing it loads no torch."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from numclip.data.checks import broken_images, without_broken
from numclip.data.prepare import DataConfig, data_report, prepare_data
from numclip.data.samples import Sample, write_csv
from numclip.data.subsets import calibration_split
from numclip.model.model_config import (
    DEFAULT_BACKBONE,
    PLAIN,
    HeadKind,
    ModelConfig,
    PromptConfig,
    PrototypeStart,
    RegressorForm,
    Vectors,
)
from numclip.model.preprocessing import PAPER_PREPROCESSING, PreprocessingConfig
from numclip.training.config import PAPER_TRAINING, TrainConfig
from numclip.training.run_folder import check_run_folder, finish, unfinished
from numclip_runtime import Task, UsageError
from numclip_runtime.console import say, show
from numclip_runtime.errors import require
from numclip_runtime.files import refuse_overwriting
from numclip_runtime.signals import Stopped, stop_requests

if TYPE_CHECKING:
    from numclip.checkpoint import Checkpoint
    from numclip.model.numclip import NumClip


@dataclass(frozen=True)
class TrainOptions:
    """The model to train, its data, and the output."""

    task: Task
    data: DataConfig
    output: Path = Path("checkpoint.pt")
    backbone: str = DEFAULT_BACKBONE  # open_clip architecture or configuration file (.json)
    pretrained: str | None = None  # open_clip tag or weights file; None: random weights
    quick_gelu: bool | None = None  # None: the backbone's
    regressor: RegressorForm = ModelConfig.regressor
    adapter_width: int | None = ModelConfig.adapter_width
    prompts: PromptConfig = PLAIN
    head: HeadKind = ModelConfig.head
    grid_points: int | None = ModelConfig.grid_points
    vectors: Vectors = ModelConfig.vectors
    prototypes: PrototypeStart | None = None  # None: text where there are pretrained words
    logit_scale: float | None = None  # initial scale of the cosine similarities; None: backbone's
    preprocessing: PreprocessingConfig = PAPER_PREPROCESSING
    training: TrainConfig = PAPER_TRAINING
    run_dir: Path | None = None  # logs and resume files; None: `output` with the suffix .run
    resume: bool = False  # go on from the last finished epoch of the run
    restart: bool = False  # discard an unfinished run and start anew
    tensorboard: bool = False  # write TensorBoard logs as well


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    checkpoint: Checkpoint  # as written, with its validation metrics
    calibration: str  # line about the calibration, for people
    test: dict[str, float] | None  # metrics of the test data; None where there is none


def train(options: TrainOptions) -> TrainResult | None:
    """Train a model, calibrate it, and write its checkpoint; prints a report on the data.

    Under torchrun, each process calls this.

    Returns:
        The result; None in all processes but the first.

    Raises:
        UsageError: if an option, the task or a data source cannot be used, or training diverges.
        ImageError: if an image cannot be read.
    """
    # Wrong use is refused first: before images are checked, files written, or torch imported.
    output = options.output
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK) or output.is_dir():
        raise UsageError(f"{output}: cannot write there; the folder must exist and be writable.")
    run_dir = options.run_dir or output.with_suffix(".run")
    first_process = os.environ.get("RANK", "0") == "0"
    if first_process:  # under torchrun, the others may start after it has begun to write
        check_run_folder(run_dir, resume=options.resume, restart=options.restart)
    data, warnings = prepare_data(options.data, options.task)
    val_source = options.data.val or output.with_suffix(".val.csv")
    images = [sample.path for part in (data.train, data.val, data.test) for sample in part or ()]
    refuse_overwriting(output, images, "an image")
    if options.data.val is None:
        refuse_overwriting(val_source, [options.data.train], "an input")
    parts = calibration_split(
        data.val, options.data.calibration_share, options.task, seed=options.data.seed
    )
    if first_process:
        show(data_report(data, options.task))
        show(parts.note)
        for warning in warnings:
            say(f"Warning: {warning}")
        if options.data.val is None:  # the split is a file, for export and for comparisons
            write_csv(val_source, data.val)
        if options.restart:  # no earlier: unreadable data leave the old run alone
            finish(run_dir)

    require("train", "torch")  # not before: it takes seconds
    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.evaluation.calibration import calibrate
    from numclip.evaluation.metrics import validation_metrics
    from numclip.evaluation.predictions import predictions_of_checkpoint
    from numclip.training.fit import fit

    config = options.training
    model = initial_model(options)
    preprocessing = options.preprocessing.of(model.config.clip)
    try:
        best = fit(
            model,
            data.train,
            parts.choosing,
            preprocessing,
            config,
            run_dir=run_dir,
            resume=options.resume,
            tensorboard=options.tensorboard,
            skip_broken=options.data.skip_broken,
        )
        if not first_process:
            return None
        root = options.data.root if options.data.val else None
        place = None if root is None else str(root)
        checkpoint, line = calibrate(
            Checkpoint(model, preprocessing, best, str(val_source), place),
            _still_readable(parts.kept or parts.choosing, options.data, "validation"),
            tuning=_still_readable(parts.choosing, options.data, "validation")
            if parts.kept
            else (),
            batch_size=config.batch_size,
            workers=config.workers,
        )
        save_checkpoint(output, checkpoint)
    except (KeyboardInterrupt, Exception) as error:
        # under torchrun, the other process may end first, and its loss come as any error
        signum = stop_requests()[0] or (isinstance(error, KeyboardInterrupt) and signal.SIGINT)
        if not signum:
            raise
        raise Stopped(signum, _what_is_kept(run_dir) if first_process else "") from None
    finish(run_dir)
    test = None
    if data.test:
        samples = _still_readable(data.test, options.data, "test")
        found = predictions_of_checkpoint(checkpoint, samples, batch_size=config.batch_size)
        test = validation_metrics(found)
    return TrainResult(checkpoint, line, test)


def _still_readable(samples: list[Sample], config: DataConfig, name: str) -> list[Sample]:
    """Return the samples that can be read; with --skip-broken, some may have broken meanwhile."""
    if not config.skip_broken:
        return samples
    broken = broken_images([sample.path for sample in samples], "decode")
    return without_broken(samples, broken, skip=True, name=name)


def _what_is_kept(run_dir: Path) -> str:
    if unfinished(run_dir):
        return f"the finished epochs are kept in {run_dir}; go on with --resume"
    return "no epoch was finished, nothing is kept"


def initial_model(options: TrainOptions) -> NumClip:
    """Return the model before the first step, drawn by the seed where it is random.

    Raises:
        UsageError: if the backbone, its weights or the choices do not go together.
    """
    from numclip.model.backbone import image_config, load_backbone
    from numclip.model.heads import compared_phrases
    from numclip.model.numclip import NumClip
    from numclip.model.prototypes import text_vectors
    from numclip.model.timm_towers import TIMM, say_other_statistics
    from numclip.training.fit import seed_everything

    seed_everything(options.training.seed)
    words = options.vectors == "words" and options.head != "probe"
    clip, clip_config = load_backbone(
        options.backbone, options.pretrained, quick_gelu=options.quick_gelu, words=words
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
