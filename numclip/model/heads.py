"""Heads: how scores or features of an image become a number and the bins' probabilities."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.model_config import ModelConfig, RegressorForm
from numclip_runtime import Task, UsageError
from numclip_runtime.task import as_written

MIN_DIVISOR = 1e-3  # tanh saturates to -1 in float32; the released form then divides by zero
MIN_PROB = 1e-12  # of a bin, before its logarithm
MIN_GAP = 1e-7  # of a bin's probability where it is likeliest: float32's resolution
MAX_WHOLE_RANGE = 200  # of labels; up to it, each whole number is a point of the grid
EVEN_POINTS = 101  # of the grid of any other task


class Readout(NamedTuple):
    """What a head makes of B images."""

    fine: Tensor  # (B,) numbers, label units without offset
    bin_probs: Tensor  # (B, K)
    logits: Tensor  # (B, K): softmax(logits / T) are the bins' probabilities at temperature T


class FineRegressor(nn.Module):
    """Refine the coarse logits to a number: an expectation over one representative per bin.

    With d = tanh(A2 relu(A1 logits + b1) + b2), the representative of bin k is
    `lower_k / (1 + d_k)` in the "released" form (lower bounds only, unbounded above), and
    `lower_k + width_k * (1 + d_k) / 2` in the "bounded" form (always inside its bin). The
    "expected" form has no d and learns nothing: the representative is the bin's midpoint, or the
    one given.

    Args:
        bin_edges: K + 1 edges, in label units without offset.
        form: "released", "bounded" or "expected".
        numbers: K representatives of the "expected" form, label units without offset.

    Raises:
        UsageError: if the form is none of these.

    Source:
        NumCLIP (arXiv 2408.03574), after SSR-Net. Deviation from the released code: 1 + d is kept
        above 1e-3, where it would divide by zero (0 / 0 for a lower edge of 0).
    """

    bin_edges: Tensor  # (K + 1,)
    numbers: Tensor  # (K,), of the "expected" form

    def __init__(
        self,
        bin_edges: tuple[float, ...],
        form: RegressorForm = "released",
        numbers: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if form not in get_args(RegressorForm):
            raise UsageError(
                f"unknown form of regressor {form!r}; known are {get_args(RegressorForm)}."
            )
        bins = len(bin_edges) - 1
        self.form = form
        self.register_buffer("bin_edges", torch.tensor(bin_edges), persistent=False)
        if form == "expected":
            middles = (self.bin_edges[:-1] + self.bin_edges[1:]) / 2
            self.register_buffer(
                "numbers", middles if numbers is None else torch.tensor(numbers), persistent=False
            )
            return
        self.fc = nn.Linear(bins, 2 * bins)
        self.delta = nn.Linear(2 * bins, bins)
        for layer in (self.fc, self.delta):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, logits: Tensor, bin_probs: Tensor) -> Tensor:
        """Map logits and bin_probs (B, K) to numbers (B,), label units without offset."""
        lower = self.bin_edges[:-1]
        if self.form == "expected":
            return bin_probs @ self.numbers
        delta = torch.tanh(self.delta(F.relu(self.fc(logits))))  # (B, K)
        if self.form == "bounded":
            inside = lower + (self.bin_edges[1:] - lower) * (1 + delta) / 2
            return (bin_probs * inside).sum(1)
        return (bin_probs * lower / (1 + delta).clamp_min(MIN_DIVISOR)).sum(1)

    def readout(self, scores: Tensor) -> Readout:
        """Read out similarities with the bins' vectors, (B, K)."""
        bin_probs = scores.softmax(-1)
        return Readout(self(scores, bin_probs), bin_probs, scores)


class Distribution(nn.Module):
    """A distribution over a grid of numbers; the prediction is its expectation.

    p = softmax(scores), value = sum_m p_m g_m, and the probability of a bin is the sum of p over
    its points. It learns nothing itself: `numclip.training.ordinal_losses` teach the scores.

    Args:
        task: Bins, and with `points` the grid, see `number_grid`.
        points: M, evenly spaced; None: chosen by the task.

    Source:
        Label distribution learning with an expectation: Gao et al., DLDL (arXiv 1611.01731) and
        DLDL-v2 ("Age estimation using expectation of label distribution learning", IJCAI 2018).
    """

    grid: Tensor  # (M,) ascending numbers, label units without offset
    shares: Tensor  # (M, K) share of each point that lies in each bin, rows sum to 1

    def __init__(self, task: Task, points: int | None = None) -> None:
        super().__init__()
        grid, shares = number_grid(task, points)
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def readout(self, scores: Tensor) -> Readout:
        """Read out similarities with the numbers' vectors, (B, M)."""
        probs = scores.softmax(-1)  # (B, M)
        bin_probs = probs @ self.shares  # (B, K)
        logits = bin_probs.float().clamp_min(MIN_PROB).log()
        return Readout((probs * self.grid).sum(1), bin_probs, logits)


class Probe(nn.Module):
    """A linear function of the image features, with a logistic distribution around it.

    value = w f + b, and P(label below the threshold t) = sigmoid((t - value) / s), so the bins'
    probabilities are differences of neighbouring thresholds' (the outermost bins reach to
    infinity). `numclip.training.probe` computes w, b and s in closed form. Weights are stored per
    range / sqrt(D), so that a step of an optimizer moves values by a share of the range, whatever
    the unit and the width.

    Args:
        task: Gives the thresholds: the inner edges, or the middle between the last whole number
            below an edge and the first one above it, where labels are whole numbers.
        width: D.

    Source:
        The ordered logit model: McCullagh, "Regression models for ordinal data" (1980), section 2,
        with known thresholds.
    """

    thresholds: Tensor  # (K - 1,) label units without offset

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 1)
        self.low, self.step = task.bin_edges[0], task.label_range / math.sqrt(width)
        self.log_spread = nn.Parameter(torch.tensor(math.log(task.label_range / 10)))
        whole = bool(task.whole_numbers) or task.labels_are_classes
        thresholds = [
            math.ceil(edge + task.label_offset) - 0.5 - task.label_offset if whole else edge
            for edge in task.bin_edges[1:-1]
        ]
        self.register_buffer("thresholds", torch.tensor(thresholds), persistent=False)

    @torch.no_grad()
    def set_line(self, weight: Tensor, intercept: float, spread: float) -> None:
        """Set w (D,), b and s, in label units without offset."""
        self.fc.weight.copy_(weight[None] / self.step)
        self.fc.bias.fill_((intercept - self.low) / self.step)
        self.log_spread.fill_(math.log(spread))

    def readout(self, scores: Tensor) -> Readout:
        """Read out image features, (B, D)."""
        return self.around((self.low + self.step * self.fc(scores)).squeeze(1))

    def around(self, numbers: Tensor) -> Readout:
        """Read out the logistic distributions around numbers (B,), label units without offset.

        With a, b the ends of a bin in units of s from the number, its probability is
        sigmoid(b) - sigmoid(a) = (1 - exp(a - b)) sigmoid(b) sigmoid(-a). As a product it keeps its
        digits where it is small, which a temperature above 1 makes visible.
        """
        scale = (-self.log_spread).exp()
        ends = (self.thresholds - numbers[:, None]) * scale  # (B, K - 1)
        gaps = (self.thresholds[1:] - self.thresholds[:-1]) * scale  # (K - 2,)
        inner = (1 - (-gaps).exp()).clamp_min(MIN_GAP).log()
        below, above = -F.softplus(-ends), -F.softplus(ends)  # logarithms: below a threshold, above
        middle = below[:, 1:] + above[:, :-1] + inner
        logits = torch.cat([below[:, :1], middle, above[:, -1:]], 1)  # (B, K)
        return Readout(numbers, logits.exp(), logits)


Head: TypeAlias = FineRegressor | Distribution | Probe


def make_head(config: ModelConfig, task: Task) -> Head:
    """Return the head of a configuration, untrained."""
    if config.head == "distribution":
        return Distribution(task, config.grid_points)
    if config.head == "probe":
        return Probe(task, int(config.clip["embed_dim"]))
    # Of other tasks the midpoints: checkpoints from before whole_numbers keep their values
    numbers = task.bin_values if task.whole_numbers else None
    return FineRegressor(task.bin_edges, config.regressor, numbers)


def compared_phrases(config: ModelConfig, task: Task) -> tuple[str, ...]:
    """Return the name of each vector that an image is compared with: a bin's, or a number's."""
    if config.head == "probe":
        return ()
    if config.head == "numclip" or (task.labels_are_classes and config.grid_points is None):
        return task.phrases
    grid, _ = number_grid(task, config.grid_points)
    numbers = (as_written(number + task.label_offset) for number in grid.double().tolist())
    return tuple(f"{number} {task.unit}".rstrip() for number in numbers)


def number_grid(task: Task, points: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the numbers that a distribution is over, and the shares of each in the bins.

    Classes are points by themselves. Whole numbers are, where labels are whole (or not known to be
    others, with whole edges), their range is at most 200 and each bin holds one; each then lies in
    one bin. Otherwise the points divide the range evenly, and a point stands for the cell halfway
    to its neighbours, which may overlap two bins or more.

    Args:
        task: Gives the range and the bins.
        points: M evenly spaced points instead.

    Returns:
        (M,) float32 ascending, label units without offset; (M, K) float32, rows sum to 1.
    """
    with torch.device("cpu"):  # also while a model of shapes alone is built
        return _number_grid(task, points)


def _number_grid(task: Task, points: int | None) -> tuple[Tensor, Tensor]:
    low, high, offset = task.bin_edges[0], task.bin_edges[-1], task.label_offset
    if points is None:
        numbers = _whole_numbers(task)
        owners = [task.bin_of(number + offset) for number in numbers]
        if set(owners) == set(range(task.num_bins)):
            return torch.tensor(numbers), F.one_hot(torch.tensor(owners)).float()
        points = EVEN_POINTS
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    half = (high - low) / (points - 1) / 2
    cells = torch.stack([(grid - half).clamp_min(low), (grid + half).clamp_max(high)])  # (2, M)
    edges = torch.tensor(task.bin_edges, dtype=torch.float64)
    start = torch.maximum(cells[0][:, None], edges[:-1])  # (M, K)
    overlap = (torch.minimum(cells[1][:, None], edges[1:]) - start).clamp_min(0)
    return grid.float(), (overlap / overlap.sum(1, keepdim=True)).float()


def _whole_numbers(task: Task) -> list[float]:
    """Return the grid of a task with few whole numbers; empty for any other."""
    if task.labels_are_classes:
        return list(task.bin_values)
    ends = (task.bin_edges[0] + task.label_offset, task.bin_edges[-1] + task.label_offset)
    whole = task.whole_numbers
    if whole is None:  # a range of 1 to 5 is as likely one of means
        whole = task.label_range >= 20 and all(edge == round(edge) for edge in task.bin_edges)
    if not whole or task.label_range > MAX_WHOLE_RANGE:
        return []
    first, last = math.ceil(ends[0]), math.floor(ends[1])
    return [float(number - task.label_offset) for number in range(first, last + 1)]
