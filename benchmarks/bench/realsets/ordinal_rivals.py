"""CORAL and CORN on the same image towers: rivals to compare with, no part of numclip.

Both have K - 1 binary outputs, "the rank is above k". They are short enough to be written here:
coral-pytorch 1.4.0, their authors' package, gives the same losses to 1e-7.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from numclip_runtime import Preprocessing, Task
from numclip_runtime.calibration import Array

if TYPE_CHECKING:
    from torch import Tensor

    from numclip.data.samples import Sample
    from numclip.training.config import TrainConfig

RivalKind = Literal["coral", "corn"]


def coral_loss(logits: Tensor, ranks: Tensor) -> Tensor:
    """Return the mean over images of the summed binary cross-entropies.

    Args:
        logits: (B, K - 1) of "the rank is above k".
        ranks: (B,) int64 in [0, K).

    Source:
        Cao, Mirjalili and Raschka, arXiv 1901.07884, equation 4.
    """
    import torch
    import torch.nn.functional as F

    above = (ranks[:, None] > torch.arange(logits.shape[1])).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1).mean()


def corn_loss(logits: Tensor, ranks: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over all tasks of all images that take part in them.

    Task k asks only the images of rank k and above: its output is P(rank > k | rank > k - 1).

    Args:
        logits: (B, K - 1).
        ranks: (B,) int64 in [0, K).

    Source:
        Shi, Cao and Raschka, arXiv 2111.08851, equation 7.
    """
    import torch
    import torch.nn.functional as F

    tasks = torch.arange(logits.shape[1])
    asked = ranks[:, None] >= tasks
    above = (ranks[:, None] > tasks).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return (losses * asked).sum() / asked.sum()


def rank_probs(logits: Tensor, kind: RivalKind) -> Tensor:
    """Return the probabilities of the K ranks, (B, K), of logits (B, K - 1)."""
    import torch

    above = logits.sigmoid()  # (B, K - 1): P(rank > k), of CORN once multiplied up
    if kind == "corn":
        above = above.cumprod(1)
    edges = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], 1)
    return (edges[:, :-1] - edges[:, 1:]).clamp_min(0)  # CORAL's biases may be out of order


def ordinal_net(tower: Any, width: int, ranks: int, kind: RivalKind) -> Any:
    """Return a torch module, images (B, 3, H, W) -> logits (B, K - 1), on top of an image tower.

    Args:
        tower: Module, images -> features (B, D).
        width: D.
        ranks: K.
        kind: "corn": a linear layer. "coral": one weight vector, and K - 1 biases that start in
            order, as in the authors' package.
    """
    import torch
    from torch import nn

    if kind == "corn":
        return nn.Sequential(tower, nn.Linear(width, ranks - 1))
    spread = nn.Linear(1, ranks - 1)  # the same number for all ranks, and their biases
    nn.init.ones_(spread.weight).requires_grad_(False)
    spread.bias.data = torch.arange(ranks - 1, 0, -1).float() / (ranks - 1)
    return nn.Sequential(tower, nn.Linear(width, 1, bias=False), spread)


def train_rival(
    net: Any,
    parts: dict[str, list[Sample]],
    task: Task,
    preprocessing: Preprocessing,
    config: TrainConfig,
    kind: RivalKind,
    *,
    expected: bool,
) -> None:
    """Train with AdamW and the schedule of `config`; the net ends with its best epoch's weights.

    Args:
        net: Return value of `ordinal_net`.
        parts: Samples of "train" and "val".
        task: One bin per whole number.
        preprocessing: Of the images.
        config: Epochs, batch size, schedule, weight decay and seed; the image tower's rate serves
            all parts.
        kind: Of the net.
        expected: How `predict_rival` reads numbers, by which the epoch is chosen.
    """
    import torch

    from numclip.data.dataset import ImageDataset, training_batches, training_transform
    from numclip.evaluation.predictions import labels_of
    from numclip.training.optim import rate_factor

    torch.manual_seed(config.seed)
    data = ImageDataset(parts["train"], task, training_transform(preprocessing))
    batches: Any = training_batches(data, config.batch_size, config.seed, 0, 0, 1)
    rate = config.rates.image
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=config.weight_decay)
    updates = config.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(config, step, updates)
    )
    loss_of = coral_loss if kind == "coral" else corn_loss
    labels = labels_of(parts["val"])
    best, state = float("inf"), copy.deepcopy(net.state_dict())
    for epoch in range(config.epochs):
        batches.sampler.set_epoch(epoch)
        net.train()
        for images, _, ranks in batches:
            loss = loss_of(net(images), ranks)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        values, _ = predict_rival(net, parts["val"], task, preprocessing, kind, expected=expected)
        if (mae := float(np.abs(values - labels).mean())) < best:
            best, state = mae, copy.deepcopy(net.state_dict())
    net.load_state_dict(state)


def predict_rival(
    net: Any,
    samples: list[Sample],
    task: Task,
    preprocessing: Preprocessing,
    kind: RivalKind,
    *,
    expected: bool,
) -> tuple[Array, Array]:
    """Return values (N,) and log probabilities of the ranks (N, K), float64.

    Args:
        net: Trained net; left in eval mode.
        samples: Images.
        task: One bin per whole number.
        preprocessing: Of the images.
        kind: Of the net.
        expected: The mean of the ranks, best by squared error; False: the number of outputs that
            are above one half, as in the papers, best by absolute error.
    """
    import torch

    from numclip.data.dataset import ImageDataset, evaluation_transform

    net.eval()
    data = ImageDataset(samples, task, evaluation_transform(preprocessing))
    loader = torch.utils.data.DataLoader(data, 64)
    with torch.inference_mode():
        probs = torch.cat([rank_probs(net(images), kind) for images, _, _ in loader]).double()
    numbers = torch.tensor(task.bin_values, dtype=torch.float64)
    above = 1 - probs.cumsum(1)[:, :-1]  # (N, K - 1)
    values = probs @ numbers if expected else numbers[(above > 0.5).sum(1)]
    return values.numpy(), probs.clamp_min(1e-12).log().numpy()
