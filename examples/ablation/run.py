"""One run of the ablation: a method, a task, a training set, a seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bench.realsets.real_measures import rounded, spearman
from examples.ablation.methods import METHODS, parameter_groups, set_ridge
from examples.ablation.scenes import TASKS, Picture, draw_pictures
from examples.ablation.tiny_clip import CLIP, pixels
from numclip.evaluation.calibration import fit_calibration
from numclip.evaluation.metrics import covered
from numclip.evaluation.predictions import bins_of, log_softmax
from numclip.model.backbone import build_clip
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_runtime import Task
from numclip_runtime.calibration import Array

Rates = tuple[float, float]  # learning rates of the image tower and of what is new
FROZEN: tuple[Rates, ...] = ((0.0, 3e-4), (0.0, 2e-3), (0.0, 1e-2))
FEW_RATES: tuple[Rates, ...] = (*FROZEN, (2e-5, 1e-3), (1.5e-4, 2e-3))
FULL_RATES: tuple[Rates, ...] = (*FROZEN, (5e-5, 1e-3), (2.5e-4, 2e-3), (1e-3, 3e-3))
TUNING_SEED = 100  # the first; their training sets are no other seed's
BATCH = 32  # the paper's; the text-to-image loss depends on it
FULL = 0  # "shots" of the full training set
POOL_SEED, VAL_SEED, TEST_SEED = 1, 2, 3
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))  # axes of (N, 3, H, W)
Draw = Callable[[Tensor], Tensor]  # indices (B,) of training pictures -> randomly flipped inputs


@dataclass(frozen=True)
class Run:
    """A method, and the data that it is trained on."""

    method: str  # key of METHODS
    task: str  # key of TASKS
    shots: int  # training pictures per whole number; 0: the full set
    seed: int  # of the training set, the new weights and the order
    rates: Rates

    @property
    def tuning(self) -> bool:
        """Whether the run only helps to choose the rates."""
        return self.seed >= TUNING_SEED

    @property
    def key(self) -> str:
        """Name the run in files; the tuning runs differ by their rates as well."""
        tuned = f"/{self.rates[0]:g}-{self.rates[1]:g}" if self.tuning else ""
        return f"{self.task}/{self.shots}/{self.method}/{self.seed}{tuned}"


@dataclass(frozen=True)
class Size:
    """Size of the comparison."""

    pretrain_pictures: int = 60_000
    pretrain_epochs: int = 5
    full: int = 1_000  # training pictures of the full set
    val: int = 1_000
    test: int = 2_000
    steps: int = 250  # of a run on the full set; few shots get half
    seeds: int = 5
    tuning_seeds: int = 3
    shots: tuple[int, ...] = (4, FULL)


def grid(shots: int) -> tuple[Rates, ...]:
    """Return the rates tried for every method: few pictures need lower ones."""
    return FULL_RATES if shots == FULL else FEW_RATES


def at_edge(rates: Rates, shots: int) -> bool:
    """Return whether a better choice may lie outside the grid: a frozen tower has none below."""
    heads = [head for image, head in grid(shots) if image == rates[0]]
    if rates[0] == 0:
        return rates[1] in (min(heads), max(heads))
    return rates[0] == max(image for image, _ in grid(shots))


@cache
def pool(count: int, seed: int) -> tuple[list[Picture], Tensor]:
    """Return pictures and their pixels, drawn once per process; no two seeds share one."""
    pictures = draw_pictures(count, seed)
    return pictures, pixels(pictures)


def chosen_pictures(run: Run, task: Task, size: Size) -> list[int]:
    """Return indices of the pool: `shots` pictures of each number, or the full set."""
    pictures, _ = pool(3 * size.full, POOL_SEED)
    order = np.random.default_rng(run.seed).permutation(len(pictures)).tolist()
    if run.shots == FULL:
        return list(order[: size.full])
    left = dict.fromkeys(range(int(task.bin_edges[0]), int(task.bin_edges[-1])), run.shots)
    chosen = []
    for index in order:
        number = int(pictures[index].label(task))
        if left[number] > 0:
            left[number] -= 1
            chosen.append(index)
    return chosen


class World:
    """All that the runs of a process share: sizes, the pretrained CLIP, what its tower sees.

    Args:
        size: Sizes of the sets, steps.
        weights: State of the pretrained CLIP.
    """

    def __init__(self, size: Size, weights: dict[str, Tensor]) -> None:
        self.size = size
        self.weights = weights
        self._features: dict[tuple[int, int], Tensor] = {}

    def clip(self) -> nn.Module:
        """Return a copy of the pretrained CLIP."""
        clip = build_clip(CLIP)
        clip.load_state_dict(self.weights)
        return clip

    def features(self, count: int, seed: int) -> Tensor:
        """Return the pretrained tower's features of a pool in its four flips, (4, N, D)."""
        if (count, seed) not in self._features:
            tower, images = self.clip().get_submodule("visual").eval(), pool(count, seed)[1]
            with torch.no_grad():
                flips = [
                    torch.cat([tower(part.flip(axes)) for part in torch.split(images, 250)])
                    for axes in FLIPS
                ]
            self._features[count, seed] = torch.stack(flips)
        return self._features[count, seed]


def levels(world: World) -> dict[str, dict[str, float]]:
    """Return where the logits of the pretrained CLIP lie, by task: OpenAI's lie at about +20.

    Returns:
        mean, deviation, low and high of the logits of validation pictures and the five sentences;
        order: Spearman's rank correlation of its numbers and the labels, 0 if it learned nothing;
        adapted: mean logit behind NumCLIP's adapter as it starts.
    """
    found = {}
    pictures, images = pool(world.size.val, VAL_SEED)
    for name, task in TASKS.items():
        torch.manual_seed(0)
        values, plain = predict(METHODS["zero-shot"].build(world.clip(), task).eval(), images)
        adapted = NumClip(ModelConfig(CLIP), task, world.clip()).eval()
        numbers = {"mean": plain.mean(), "deviation": plain.std()}
        numbers |= {"low": plain.min(), "high": plain.max()}
        numbers |= {"order": spearman(values, np.array([p.label(task) for p in pictures]))}
        numbers |= {"adapted": predict(adapted, images)[1].mean()}
        found[name] = {key: round(float(number), 2) for key, number in numbers.items()}
    return found


def execute(run: Run, world: World) -> dict[str, Any]:
    """Train and measure.

    A frozen tower is not run: it sees each picture once, in four flips, for all runs.

    Returns:
        Validation MAE, seconds; but for tuning runs also `test_measures`.
    """
    started = time.perf_counter()
    torch.manual_seed(run.seed)
    method, coarse, size = METHODS[run.method], TASKS[run.task], world.size
    model = method.build(world.clip(), coarse)
    frozen = not method.trained or run.rates[0] == 0
    train_pool, chosen = (3 * size.full, POOL_SEED), chosen_pictures(run, coarse, size)
    pictures, images = pool(*train_pool)
    labels = torch.tensor([pictures[i].label(coarse) for i in chosen])
    if method.ridge:
        set_ridge(model, world.features(*train_pool)[:, chosen], labels)
    if frozen:
        model.image_encoder = nn.Identity()
    if method.trained:
        steps = size.steps // (1 if run.shots == FULL else 2)
        if frozen:
            draw = _draw_features(world.features(*train_pool)[:, chosen])
        else:
            draw = _draw_pixels(images[chosen])
        train(model, draw, labels, run, steps)
    model.eval()

    def read(part: tuple[int, int]) -> tuple[Array, Array, Array]:
        seen = world.features(*part)[0] if frozen else pool(*part)[1]
        return *predict(model, seen), np.array([p.label(coarse) for p in pool(*part)[0]])

    val = read((size.val, VAL_SEED))
    measures = {"val_mae": rounded(np.abs(val[0] - val[2]))}
    if not run.tuning:
        measures |= test_measures(model.task, coarse, val, read((size.test, TEST_SEED)))
    return measures | {"seconds": round(time.perf_counter() - started, 2)}


def test_measures(
    task: Task,
    coarse: Task,
    val: tuple[Array, Array, Array],
    test: tuple[Array, Array, Array],
) -> dict[str, float]:
    """Return MAE, order, bins and intervals on the test pictures.

    Args:
        task: The model's, whose bins may be whole numbers.
        coarse: Of the five named bins.
        val: Values (N,), logits (N, K) and labels (N,); the 90 % intervals are calibrated on them.
        test: The same, measured.

    Returns:
        mae; spearman of values and labels; spearman_bins of the bins' expectation and labels;
        bin_accuracy and mae_max_index of the most probable bin, in coarse bins; coverage and mean
        interval_width.
    """
    values, logits, labels = test
    numbers = np.array(task.bin_values)
    found = bins_of(numbers[logits.argmax(1)], coarse)
    true = bins_of(labels, coarse)
    calibration = fit_calibration(*val, task)
    bin_probs = np.exp(log_softmax(logits / calibration.temperature))
    ends = calibration.intervals(values, bin_probs, task)
    assert ends is not None  # 9 pictures are enough
    expected = np.exp(log_softmax(logits)) @ numbers
    return {
        "mae": rounded(np.abs(values - labels)),
        "spearman": round(spearman(values, labels), 4),
        "spearman_bins": round(spearman(expected, labels), 4),
        "bin_accuracy": rounded(found == true),
        "mae_max_index": rounded(np.abs(found - true)),
        "coverage": rounded(covered(ends, labels)),
        "interval_width": rounded(ends[:, 1] - ends[:, 0]),
    }


def _draw_pixels(images: Tensor) -> Draw:
    def draw(chosen: Tensor) -> Tensor:
        batch = images[chosen]
        for axis in (2, 3):
            batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(axis), batch)
        return batch

    return draw


def _draw_features(features: Tensor) -> Draw:
    return lambda chosen: features[torch.randint(len(features), chosen.shape), chosen]


def train(model: NumClip, draw: Draw, labels: Tensor, run: Run, steps: int) -> None:
    """Train with AdamW and a cosine schedule; pictures are flipped at random both ways."""
    bins = torch.tensor([model.task.bin_of(label) for label in labels.tolist()])
    groups = parameter_groups(model, *run.rates)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)  # 5 of 30 ms faster
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of, order = METHODS[run.method].loss, torch.empty(0, dtype=torch.int64)
    model.train()
    for _ in range(steps):
        if len(order) < min(BATCH, len(labels)):
            order = torch.randperm(len(labels))
        chosen, order = order[:BATCH], order[BATCH:]
        loss = loss_of(model(draw(chosen)), labels[chosen], bins[chosen])
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
