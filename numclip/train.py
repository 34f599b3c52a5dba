"""Training on Lightning: three losses, one learning rate per part, best checkpoint kept."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from numclip.data import ImageDataset, Sample, evaluation_transform, training_transform
from numclip.evaluate import Batch, metrics
from numclip.losses import fcrc_image_to_text, fcrc_text_to_image
from numclip.model import NumClip
from numclip.torchvision_compat import import_torchvision
from numclip_runtime import Preprocessing

import_torchvision()
import pytorch_lightning as pl  # noqa: E402

# Lightning announces devices and tips as "info"; its warnings and errors stay.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

Optimizer = Literal["radam", "adamw"]
Schedule = Literal["constant", "cosine", "multistep"]


@dataclass(frozen=True)
class LearningRates:
    """One learning rate per part of the model; 0 freezes the part. Defaults are the paper's."""

    image: float = 1e-5
    text: float = 0.0
    context: float = 0.0
    rank: float = 1e-5
    adapter: float = 1e-5
    regressor: float = 1e-5
    logit_scale: float = 0.0

    def groups(self, model: NumClip) -> Iterator[dict[str, Any]]:
        """Yield optimizer groups, and set requires_grad of every parameter."""
        prompts = model.prompt_learner
        parts: list[tuple[float, list[nn.Parameter]]] = [
            (self.image, list(model.image_encoder.parameters())),
            (self.text, list(model.text_encoder.parameters())),
            (self.context, [prompts.context_embeds]),
            (self.rank, [prompts.rank_embeds]),
            (self.adapter, list(model.image_adapter.parameters())),
            (self.regressor, list(model.regressor.parameters())),
            (self.logit_scale, [model.logit_scale]),
        ]
        for rate, parameters in parts:
            for parameter in parameters:
                parameter.requires_grad_(rate > 0)
            if rate > 0:
                yield {"params": parameters, "lr": rate}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are the paper's recipe for age."""

    epochs: int = 200
    batch_size: int = 32
    rates: LearningRates = LearningRates()
    optimizer: Optimizer = "radam"
    weight_decay: float = 0.0
    schedule: Schedule = "multistep"  # multistep: x0.1 at 30 % of the epochs (60 of 200)
    warmup_steps: int = 0  # linear from 0
    regression_weight: float = 1.0  # of the L1 loss, in label units, against the two FCRC losses
    workers: int = 0  # processes that load images
    seed: int = 0


class NumClipModule(pl.LightningModule):
    """NumCLIP's losses and optimizer, for Lightning's Trainer."""

    def __init__(self, model: NumClip, config: TrainConfig, steps: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.steps = steps
        self._outputs: list[tuple[Tensor, ...]] = []
        self.best: dict[str, float] = {}
        self.best_state: dict[str, Tensor] = {}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the three losses of a batch and their sum, "loss"."""
        images, labels, bins = batch
        out = self.model(images)
        parts = {
            "image_to_text": fcrc_image_to_text(out.logits, bins),
            "text_to_image": fcrc_text_to_image(out.logits, bins),
            "l1": F.l1_loss(out.fine, labels),
        }
        total = parts["image_to_text"] + parts["text_to_image"]
        return parts | {"loss": total + self.config.regression_weight * parts["l1"]}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch."""
        losses = self.losses(batch)
        for name, value in losses.items():
            self.log(name, value, prog_bar=name == "l1", on_step=False, on_epoch=True)
        return losses["loss"]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the predictions of one batch."""
        out = self.model(batch[0])
        self._outputs.append((out.values, out.bin_probs, batch[1], batch[2]))

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics and keep the weights when they are the best so far."""
        if not self._outputs:
            return
        result = metrics(*(torch.cat(column) for column in zip(*self._outputs, strict=True)))
        self._outputs.clear()
        self.log_dict({f"val_{k}": v for k, v in result.items()}, prog_bar=True)
        if not self.trainer.sanity_checking and result["mae"] < self.best.get("mae", math.inf):
            self.best = result
            state = self.model.state_dict()
            self.best_state = {k: v.detach().cpu().clone() for k, v in state.items()}

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, stepped per batch."""
        config = self.config
        groups = list(config.rates.groups(self.model))
        make = torch.optim.RAdam if config.optimizer == "radam" else torch.optim.AdamW
        optimizer = make(groups, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _factor(self, step: int) -> float:
        config = self.config
        warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        done = step / max(1, self.steps)
        if config.schedule == "cosine":
            return warm * (1 + math.cos(math.pi * min(1.0, done))) / 2
        return warm * (0.1 if config.schedule == "multistep" and done >= 0.3 else 1.0)


class _EpochLines(pl.Callback):
    """One line per epoch, for logs and pipes."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        got = {k: float(v) for k, v in trainer.callback_metrics.items()}
        print(
            f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  loss {got['loss']:.3f}  "
            f"val MAE {got['val_mae']:.3f}  bin accuracy {got['val_bin_accuracy']:.1%}",
            flush=True,
        )


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
    log_dir: Path | None = None,
) -> dict[str, float]:
    """Train a model in place; it ends with the weights of the best validation MAE.

    Args:
        model: Model to train.
        train: Training samples.
        val: Validation samples, of other people, photos, places than `train`.
        preprocessing: Geometry and normalisation of the images.
        config: Recipe.
        log_dir: Where CSV logs go; None keeps none.

    Returns:
        The best validation metrics.
    """
    seed_everything(config.seed)
    train_data = ImageDataset(train, model.task, training_transform(preprocessing), draw=True)
    val_data = ImageDataset(val, model.task, evaluation_transform(preprocessing))
    loader: dict[str, Any] = {
        "num_workers": config.workers,
        "persistent_workers": config.workers > 0,
    }
    train_batches = DataLoader(train_data, config.batch_size, shuffle=True, **loader)
    val_batches = DataLoader(val_data, 4 * config.batch_size, **loader)
    module = NumClipModule(model, config, len(train_batches) * config.epochs)
    interactive = sys.stderr.isatty()
    trainer = pl.Trainer(
        max_epochs=config.epochs,
        logger=pl.loggers.CSVLogger(log_dir) if log_dir else False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=interactive,
        callbacks=[] if interactive else [_EpochLines()],
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        # The number of loading processes is the caller's choice, and logs are per epoch.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*")
        trainer.fit(module, train_batches, val_batches)
    model.load_state_dict(module.best_state)
    model.eval()
    return module.best
