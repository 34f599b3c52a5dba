"""Training on Lightning: best weights, early stop, resume, one process or many."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from numclip.data.dataset import ImageDataset, evaluation_transform, training_transform
from numclip.data.samples import Sample
from numclip.data.workers import check_shared_memory, loading_faults
from numclip.evaluation.metrics import constant_mae
from numclip.evaluation.predictions import labels_of
from numclip.model.numclip import NumClip
from numclip.model.tuning import add_low_rank, merge_low_rank
from numclip.torchvision_compat import import_torchvision
from numclip.training.callbacks import EpochLines, RunFolder, RunProgress
from numclip.training.config import TrainConfig
from numclip.training.history import CONSTANT, findings, save_history
from numclip.training.lightning_module import VALIDATION_FACTOR, NumClipModule
from numclip.training.loggers import LoggerName, make_loggers
from numclip.training.run_folder import BEST_FILE, RESUME_FILE, unfinished
from numclip_runtime import Preprocessing, UsageError
from numclip_runtime.console import say
from numclip_runtime.files import naming

import_torchvision()
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

from numclip.training.resume_files import WholeFiles, read_back  # noqa: E402


@dataclass(frozen=True)
class Teaching:
    """What makes a training one by another model, see `numclip.distillation`."""

    # In place of NumClipModule, with its arguments
    module: Callable[[NumClip, ImageDataset, ImageDataset, TrainConfig], NumClipModule]
    view: Callable[[Image.Image], Any]  # RGB image -> what the module gets of a training image
    side: int  # pixels, of a square that takes as much memory as such a view
    settings: Mapping[str, Any]  # which a resume must share


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, data loading processes included."""
    pl.seed_everything(seed, workers=True, verbose=False)


def fit(
    model: NumClip,
    train: list[Sample],
    val: list[Sample],
    preprocessing: Preprocessing,
    config: TrainConfig,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    loggers: Sequence[LoggerName] = (),
    skip_broken: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    baselines: Mapping[str, float] | None = None,
    teaching: Teaching | None = None,
) -> dict[str, float]:
    """Train a model in place; it ends with the weights of the best validation MAE.

    Under torchrun, each process calls this and gets the same result.

    Args:
        model: Model to train.
        train: Training samples.
        val: Validation samples, of other people, photos, places than `train`.
        preprocessing: Geometry and normalisation of the images.
        config: How to train.
        run_dir: Folder of logs and resume files; None keeps nothing.
        resume: Continue from the last finished epoch in `run_dir`.
        loggers: Log to these as well.
        skip_broken: Leave out images that cannot be read when they are met, and say so.
        callbacks: Lightning callbacks of your own.
        baselines: Validation MAE of other predictors by name, label units; it is shown beside the
            model's and the best constant's.
        teaching: Of a training by another model; training samples may then lack a label (NaN).

    Returns:
        The best validation metrics.

    Raises:
        UsageError: if every learning rate is 0, training diverges, there is nothing to resume, or
            memory does not suffice.
        ImageError: if an image cannot be read.
    """
    if resume and (run_dir is None or not unfinished(run_dir)):
        raise UsageError(f"{run_dir}: nothing to resume; start without --resume.")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    loads = [(len(train), config.batch_size), (len(val), VALIDATION_FACTOR * config.batch_size)]
    side = teaching.side if teaching else preprocessing.crop
    check_shared_memory(loads, side, config.workers, local)
    seed_everything(config.seed)
    beside = {CONSTANT: constant_mae(labels_of(val)), **(baselines or {})}
    model.train()  # `fit` and `load_checkpoint` leave a model in eval mode
    merge_low_rank(model.image_encoder)  # left by a training that was stopped
    if config.tune == "lora":
        add_low_rank(model.image_encoder, config.lora_rank)
    # this layout takes a CPU 0.72 (MobileNetV2, 96 px) to 0.77 (ResNet, 64 px) of the time
    model.image_encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    view = teaching.view if teaching else training_transform(preprocessing, flip=config.flip)
    module = (teaching.module if teaching else NumClipModule)(
        model,
        ImageDataset(
            train,
            model.task,
            view,
            draw=True,
            broken="replace" if skip_broken else "raise",
        ),
        ImageDataset(
            val,
            model.task,
            evaluation_transform(preprocessing),
            broken="mark" if skip_broken else "raise",
        ),
        in_label_units(config, train),
    )
    settings = {
        "recipe": asdict(config) | {"workers": None},  # loading processes change nothing
        "model": asdict(model.config),
        "task": model.task.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "samples": [len(train), len(val)],
        **(teaching.settings if teaching else {}),
    }
    with nullcontext(run_dir) if run_dir else tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), settings, config.patience)
        last = run.folder / RESUME_FILE
        if resume:
            run.check(last)
        shown = [RunProgress()] if sys.stderr.isatty() else []
        own = [run, EpochLines(model.task, beside), *shown]
        trainer = _trainer(config, [*own, *callbacks], make_loggers(run_dir, loggers))
        with _quiet(), loading_faults(config.workers), naming(run.folder):
            _run(trainer, module, last if resume else None)
        if not run.best:
            raise UsageError(
                "training diverged, no epoch has a finite MAE; lower the learning rates."
            )
        best = read_back(run.folder / BEST_FILE)
        if trainer.is_global_zero:
            no_picture = run_dir and save_history(run_dir, run.history, beside, model.task)
            for sentence in findings(run.history, beside, model.task):
                say(f"Warning: {sentence}")
            if no_picture:
                say(f"Note: {no_picture}")
        trainer.strategy.barrier()  # every process reads before any file is deleted
    state = best["state_dict"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    model.image_encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    merge_low_rank(model.image_encoder)  # what is saved and exported is a plain tower
    model.eval()
    return run.best


def in_label_units(config: TrainConfig, train: Sequence[Sample]) -> TrainConfig:
    """Return the configuration with the L1 loss's weight in label units; see `RegressionUnit`."""
    labels = labels_of(train)
    known = labels[~np.isnan(labels)]
    spread = constant_mae(known) if len(known) else 0.0
    if config.regression_unit == "label" or not spread:  # nothing differs: nothing to scale by
        return replace(config, regression_unit="label")
    weight = config.regression_weight / spread
    return replace(config, regression_weight=weight, regression_unit="label")


def _run(trainer: pl.Trainer, module: NumClipModule, ckpt_path: Path | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as end:  # Lightning's answer to KeyboardInterrupt, of which ours is a kind
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on


def _trainer(
    config: TrainConfig, callbacks: list[pl.Callback], loggers: list[pl.loggers.Logger]
) -> pl.Trainer:
    # set by torchrun: the number of processes on this machine and in all
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return pl.Trainer(
        max_epochs=config.epochs,
        precision=config.precision,
        accumulate_grad_batches=config.accumulate,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,  # EpochSampler shards by itself
        logger=loggers or False,
        callbacks=callbacks,
        enable_checkpointing=False,
        plugins=[WholeFiles()],
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice; its errors and other warnings stay."""
    with warnings.catch_warnings():
        # The caller chose the number of loading processes, and logs are per epoch.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on a newer torch
        yield
