"""Training on Lightning: best weights, early stop, resume, one process or many."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numclip.data.dataset import ImageDataset, evaluation_transform, training_transform
from numclip.data.samples import Sample
from numclip.data.workers import check_shared_memory, loading_faults
from numclip.model.numclip import NumClip
from numclip.torchvision_compat import import_torchvision
from numclip.training.config import TrainConfig
from numclip.training.lightning_module import VALIDATION_FACTOR, NumClipModule
from numclip.training.run_folder import BEST_FILE, RESUME_FILE, unfinished
from numclip_runtime import ModelError, Preprocessing, Task, UsageError
from numclip_runtime.errors import first_line
from numclip_runtime.files import naming
from numclip_runtime.signals import signals_held

import_torchvision()
import pytorch_lightning as pl  # noqa: E402

from numclip.training.resume_files import WholeFiles, read_back  # noqa: E402


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, data loading processes included."""
    pl.seed_everything(seed, workers=True, verbose=False)


class _EpochLines(pl.Callback):
    """One line per epoch, for logs and pipes.

    Args:
        task: Determines the digits of its errors.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        got = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            print(
                f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  "
                f"loss {got['loss']:.3f}  val MAE {self.task.number(got['val_mae'], 3)}  "
                f"bin accuracy {got['val_bin_accuracy']:.1%}",
                flush=True,
            )


class _RunFolder(pl.Callback):
    """Save the best weights, and the state for a resume, once per epoch.

    Args:
        folder: Run folder.
        settings: Settings of the run; a resume with others is refused.
        patience: Epochs without a better validation MAE before stopping; 0: never stop.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], patience: int) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.patience = patience
        self.best: dict[str, float] = {}
        self.best_epoch = -1

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs."""
        return {"settings": self.settings, "best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the return value of `state_dict`."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the handlers of this program, before Lightning installs its own."""
        self._sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put SIGTERM's handler back: Lightning's waits for other processes, and may hang."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch's validation; a signal waits until both files are written."""
        got = trainer.callback_metrics
        metrics = {k.removeprefix("val_"): v.item() for k, v in got.items() if k[:4] == "val_"}
        if best := metrics["mae"] < self.best.get("mae", math.inf):
            self.best, self.best_epoch = metrics, trainer.current_epoch
        with signals_held():
            if best:
                trainer.save_checkpoint(self.folder / BEST_FILE, weights_only=True)
            trainer.save_checkpoint(self.folder / RESUME_FILE)
        if self.patience and trainer.current_epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def check(self, file: Path) -> None:
        """Compare with the settings of the run that wrote a file.

        Raises:
            UsageError: naming the settings that differ.
            ModelError: if the file cannot be read.
        """
        try:
            stored = read_back(file, mmap=True)
            before = stored["callbacks"][self.state_key]["settings"]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{file}: cannot be resumed from ({first_line(error)}).") from None
        differing = sorted(k for k, v in flat(self.settings).items() if flat(before).get(k) != v)
        if differing:
            raise UsageError(
                f"{file}: belongs to a run with other settings ({', '.join(differing)[:300]}); "
                "give the same settings, or start anew with --restart."
            )


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to {"recipe.epochs": 3, ...}."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        out.update({f"{prefix}{key}": value} if inner is None else inner)
    return out


def fit(
    model: NumClip,
    train: list[Sample],
    val: list[Sample],
    preprocessing: Preprocessing,
    config: TrainConfig,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    skip_broken: bool = False,
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
        tensorboard: Write TensorBoard logs as well.
        skip_broken: Leave out images that cannot be read when they are met, and say so.

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
    check_shared_memory(loads, preprocessing.crop, config.workers, local)
    seed_everything(config.seed)
    model.train()  # `fit` and `load_checkpoint` leave a model in eval mode
    module = NumClipModule(
        model,
        ImageDataset(
            train,
            model.task,
            training_transform(preprocessing),
            draw=True,
            broken="replace" if skip_broken else "raise",
        ),
        ImageDataset(
            val,
            model.task,
            evaluation_transform(preprocessing),
            broken="mark" if skip_broken else "raise",
        ),
        config,
    )
    settings = {
        "recipe": asdict(config) | {"workers": None},  # loading processes change nothing
        "model": asdict(model.config),
        "task": model.task.to_dict(),
        "preprocessing": asdict(preprocessing),
        "samples": [len(train), len(val)],
    }
    with nullcontext(run_dir) if run_dir else tempfile.TemporaryDirectory() as folder:
        run = _RunFolder(Path(folder), settings, config.patience)
        last = run.folder / RESUME_FILE
        if resume:
            run.check(last)
        trainer = _trainer(config, run, _loggers(run_dir, tensorboard), model.task)
        with _quiet(), loading_faults(config.workers), naming(run.folder):
            _run(trainer, module, last if resume else None)
        if not run.best:
            raise UsageError(
                "training diverged, no epoch has a finite MAE; lower the learning rates."
            )
        best = read_back(run.folder / BEST_FILE)
        trainer.strategy.barrier()  # every process reads before any file is deleted
    state = best["state_dict"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    model.eval()
    return run.best


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


def _loggers(run_dir: Path | None, tensorboard: bool) -> list[pl.loggers.Logger]:
    if run_dir is None:
        return []
    loggers: list[pl.loggers.Logger] = [pl.loggers.CSVLogger(run_dir, name="logs")]
    if tensorboard:
        loggers.append(pl.loggers.TensorBoardLogger(run_dir, name="tensorboard"))
    return loggers


def _trainer(
    config: TrainConfig, run: _RunFolder, loggers: list[pl.loggers.Logger], task: Task
) -> pl.Trainer:
    interactive = sys.stderr.isatty()
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
        callbacks=[run] if interactive else [run, _EpochLines(task)],
        enable_checkpointing=False,
        plugins=[WholeFiles()],
        enable_model_summary=False,
        enable_progress_bar=interactive,
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
