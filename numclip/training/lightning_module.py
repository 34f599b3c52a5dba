"""NumCLIP's losses and optimizer as a LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from numclip.data.dataset import Batch, ImageDataset, training_batches, validation_batches
from numclip.evaluation.metrics import validation_metrics
from numclip.evaluation.predictions import Predictions, labels_of
from numclip.model.heads import Distribution
from numclip.model.numclip import NumClip
from numclip.torchvision_compat import import_torchvision
from numclip.training.config import TrainConfig
from numclip.training.losses import batch_losses
from numclip.training.optim import freeze, make_optimizer, rate_factor
from numclip_runtime import UsageError

import_torchvision()
import pytorch_lightning as pl  # noqa: E402

# Lightning announces devices and tips as "info"; its warnings and errors stay.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

VALIDATION_FACTOR = 4  # its batches are so much larger: they keep no gradients


class NumClipModule(pl.LightningModule):
    """Train `model` on `train`, validate it on `val`.

    Args:
        model: Model to train, changed in place.
        train: Training data, randomly transformed.
        val: Validation data.
        config: How to train.
    """

    def __init__(
        self, model: NumClip, train: ImageDataset, val: ImageDataset, config: TrainConfig
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        # Now: DDP reads requires_grad before the optimizer is made
        freeze(model, config.rates, config.tune)
        self._data = {"train": train, "val": val}
        self._text: Tensor | None = None  # (R, D) of the validation run under way
        # its values (B,), bin_probs (B, K) and labels (B,)
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums: Tensor | float = 0.0  # (5,) of the epoch so far: losses times images, images

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return this process's training batches."""
        c, t = self.config, self.trainer
        return training_batches(
            self._data["train"], c.batch_size, c.seed, c.workers, t.global_rank, t.world_size
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this process's validation batches."""
        c, t = self.config, self.trainer
        return validation_batches(
            self._data["val"],
            VALIDATION_FACTOR * c.batch_size,
            c.workers,
            t.global_rank,
            t.world_size,
        )

    def global_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the whole batch of all processes."""
        images, labels, bins = batch
        out = self.model(images)
        head, task = self.model.regressor, self.model.task
        scores = [out.scores] if isinstance(head, Distribution) else []  # else they are the logits
        logits, fine, labels, bins, *rest = self._gather(
            out.logits, out.fine, labels, bins, *scores
        )
        whole = out._replace(logits=logits, fine=fine, scores=rest[0] if rest else logits)
        return batch_losses(whole, labels, bins, self.config, head, task.label_offset)

    def _gather(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Join each tensor over all processes: the text-to-image loss needs the whole batch.

        Every process then computes the same loss. The backward pass of the gathering sums the
        processes' equal gradients, and averaging over processes undoes it: exactly the gradient
        of one process with the whole batch.
        """
        if self._trainer is None or self.trainer.world_size == 1:
            return tensors
        return [self._all(tensor).flatten(0, 1) for tensor in tensors]

    def _all(self, tensor: Tensor) -> Tensor:
        """Gather a tensor of W processes: (B, ...) to (W, B, ...)."""
        gathered = self.all_gather(tensor, sync_grads=tensor.requires_grad)
        assert isinstance(gathered, Tensor)
        if gathered.requires_grad:
            # torch's gloo backward ignores strides: a transposed gradient would be scrambled
            gathered.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        return gathered

    def on_train_epoch_start(self) -> None:
        """Keep the running statistics of a tower whose own weights stay (a ResNet has them)."""
        if self.config.rates.image == 0 or self.config.tune != "all":
            self.model.image_encoder.eval()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch; at the epoch's last, log the means over its images."""
        parts = self.global_losses(batch)
        loss = parts["loss"]
        row = torch.stack([*parts.values(), torch.ones_like(loss)]).detach().float()
        self._sums = self._sums + len(batch[1]) * row
        # A log of every batch would give the same means at 2 ms each; logged in
        # on_train_epoch_end, they would come after the callbacks that print and save.
        if self.trainer.is_last_batch:
            for name, mean in zip(parts, self._sums[:-1] / self._sums[-1], strict=True):
                show = name == "l1"
                self.log(name, mean, prog_bar=show, on_step=False, on_epoch=True, batch_size=1)
            self._sums = 0.0
        return loss

    def on_validation_epoch_start(self) -> None:
        """Encode the bins' sentences once for the whole validation run."""
        self._outputs.clear()
        self._text = self.model.text_features()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the predictions of one batch."""
        out = self.model(batch[0], self._text)
        self._outputs.append((out.values, out.bin_probs, batch[1]))

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics over all samples of all processes."""
        samples = self._data["val"].samples
        columns = [torch.cat(column) for column in zip(*self._outputs, strict=True)]
        if self.trainer.world_size > 1:
            # (W, n, ...) -> (n * W, ...) in the order of the data, padding cut off
            columns = [self._all(c).transpose(0, 1).flatten(0, 1)[: len(samples)] for c in columns]
        values, bin_probs, labels = (column.cpu().double().numpy() for column in columns)
        kept = ~np.isnan(labels)  # the others are marked as broken
        if not kept.any():
            raise UsageError("no validation image can be read any more.")
        labels = labels_of(samples)[kept]
        found = Predictions(self.model.task, None, labels, values[kept], bin_probs[kept])
        result = validation_metrics(found)
        self.log_dict({f"val_{name}": value for name, value in result.items()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, stepped per update."""
        optimizer = make_optimizer(self.model, self.config)
        updates = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(self.config, step, updates)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
