"""One run of the ablation: a method, a task, a training set, a seed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from examples.ablation.methods import METHODS, parameter_groups
from examples.ablation.scenes import TASKS, Picture, draw_pictures
from examples.ablation.tiny_clip import CLIP, pixels
from numclip.evaluation.calibration import fit_calibration
from numclip.evaluation.predictions import log_softmax
from numclip.model.backbone import build_clip
from numclip_runtime import Task
from numclip_runtime.calibration import Array

RATES = ((3e-5, 1e-3), (3e-4, 2e-3), (2e-3, 5e-3))  # image tower, head: tried for each method
TUNING_SEED = 100  # its training sets are no other seed's
BATCH = 48
FULL = 0  # "shots" of the full training set
POOL_SEED, VAL_SEED, TEST_SEED = 1, 2, 3


@dataclass(frozen=True)
class Run:
    """A method, and the data that it is trained on."""

    method: str  # key of METHODS
    task: str  # key of TASKS
    shots: int  # training pictures per whole number; 0: the full set
    seed: int  # of the training set, the new weights and the order
    rates: tuple[float, float]  # learning rates of the image tower and the head

    @property
    def key(self) -> str:
        """Name the run in files; the tuning runs differ by their rates as well."""
        tuned = f"/{self.rates[0]:g}" if self.seed == TUNING_SEED else ""
        return f"{self.task}/{self.shots}/{self.method}/{self.seed}{tuned}"


@dataclass(frozen=True)
class Size:
    """Size of the comparison."""

    pretrain_pictures: int = 60_000
    pretrain_epochs: int = 5
    full: int = 2_000  # training pictures of the full set
    val: int = 1_000
    test: int = 2_000
    steps: int = 400  # of a run on the full set; few shots get half
    seeds: int = 5
    shots: tuple[int, ...] = (1, 4, FULL)


@cache
def pool(count: int, seed: int) -> tuple[list[Picture], Tensor]:
    """Return pictures and their pixels, drawn once per process; no two seeds share one."""
    pictures = draw_pictures(count, seed)
    return pictures, pixels(pictures)


def training_set(run: Run, task: Task, size: Size) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) and labels (N,): `shots` of each number, or the full set."""
    pictures, images = pool(3 * size.full, POOL_SEED)
    order = np.random.default_rng(run.seed).permutation(len(pictures)).tolist()
    if run.shots == FULL:
        chosen = order[: size.full]
    else:
        left = dict.fromkeys(range(int(task.bin_edges[0]), int(task.bin_edges[-1])), run.shots)
        chosen = []
        for index in order:
            number = int(pictures[index].label(task))
            if left[number] > 0:
                left[number] -= 1
                chosen.append(index)
    return images[chosen], torch.tensor([pictures[i].label(task) for i in chosen])


def execute(run: Run, size: Size, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Train and measure.

    Args:
        run: What to do.
        size: Sizes of the sets, steps.
        weights: State of the pretrained CLIP.

    Returns:
        Validation MAE; test MAE, share of right coarse bins, coverage and mean width of the 90 %
        intervals (calibrated on the validation set), seconds.
    """
    started = time.perf_counter()
    torch.manual_seed(run.seed)
    method, coarse = METHODS[run.method], TASKS[run.task]
    clip = build_clip(CLIP)
    clip.load_state_dict(weights)
    model = method.build(clip, coarse)
    task: Task = model.task  # type: ignore[assignment]
    if method.trained:
        train(
            model,
            *training_set(run, coarse, size),
            run,
            size.steps // (1 if run.shots == FULL else 2),
        )
    model.eval()
    val, test = pool(size.val, VAL_SEED), pool(size.test, TEST_SEED)
    val_labels, labels = (np.array([p.label(coarse) for p in part[0]]) for part in (val, test))
    (val_values, val_logits), (values, logits) = predict(model, val[1]), predict(model, test[1])
    found, true = (np.array([coarse.bin_of(n) for n in col.tolist()]) for col in (values, labels))
    calibration = fit_calibration(val_values, val_logits, val_labels, task)
    bin_probs = np.exp(log_softmax(logits / calibration.temperature))
    ends = calibration.intervals(values, bin_probs, task)
    assert ends is not None  # 9 pictures are enough
    return {
        "val_mae": _mean(np.abs(val_values - val_labels)),
        "mae": _mean(np.abs(values - labels)),
        "bin_accuracy": _mean(found == true),
        "coverage": _mean((ends[:, 0] <= labels) & (labels <= ends[:, 1])),
        "interval_width": _mean(ends[:, 1] - ends[:, 0]),
        "seconds": round(time.perf_counter() - started, 2),
    }


def train(model: nn.Module, images: Tensor, labels: Tensor, run: Run, steps: int) -> None:
    """Train with AdamW and a cosine schedule; pictures are flipped at random both ways."""
    task: Task = model.task  # type: ignore[assignment]
    bins = torch.tensor([task.bin_of(label) for label in labels.tolist()])
    optimizer = torch.optim.AdamW(parameter_groups(model, *run.rates), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of, order = METHODS[run.method].loss, torch.empty(0, dtype=torch.int64)
    model.train()
    for _ in range(steps):
        if len(order) < min(BATCH, len(images)):
            order = torch.randperm(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        batch = images[chosen]
        for axis in (2, 3):
            batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(axis), batch)
        loss = loss_of(model(batch), labels[chosen], bins[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def predict(model: nn.Module, images: Tensor) -> tuple[Array, Array]:
    """Return values (N,) and logits (N, K), float64."""
    with torch.inference_mode():
        parts = [model(part) for part in torch.split(images, 250)]
    values, logits = torch.cat([p.values for p in parts]), torch.cat([p.logits for p in parts])
    return values.double().numpy(), logits.double().numpy()


def _mean(numbers: npt.NDArray[Any]) -> float:
    return round(float(np.mean(numbers)), 4)
