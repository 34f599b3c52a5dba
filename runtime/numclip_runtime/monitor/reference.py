"""What a monitor compares with: quantiles of a few numbers over the validation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from numclip_runtime.errors import UsageError
from numclip_runtime.fields import read_fields

Numbers = npt.NDArray[np.float64]

LEAST_IMAGES = 20  # of a reference; with fewer, hardly any change could be proved
MOST_STATISTICS = 32
# Shares of the reference below the edges of the bins; beside them, its smallest and largest number
LEVELS = (0.01, 0.05, *(tenth / 20 for tenth in range(3, 19, 2)), 0.95, 0.99)
# Statistics that many images share, such as the colour of grey photos, are told apart by noise of
# this share of their spread: see `spread_out`
JITTER = 1e-4


@dataclass(frozen=True)
class ReferenceStatistic:
    """The distribution of one statistic over the images of a reference.

    Raises:
        UsageError: if the edges do not ascend.
    """

    edges: tuple[float, ...]  # (E,) numbers of the reference itself, at `MonitorReference.ranks`
    mean: float  # in the unit of the statistic, see `statistics`
    jitter: float  # width of the noise that was added to each number, same unit

    def __post_init__(self) -> None:
        if list(self.edges) != sorted(set(self.edges)):
            raise UsageError("edges must ascend.")
        if self.jitter < 0:
            raise UsageError("jitter must be at least 0.")


@dataclass(frozen=True)
class MonitorReference:
    """The distributions of some statistics over images that the model was not trained on.

    The edges of the bins are order statistics of the reference: m images leave m + 1 gaps, and the
    next image of the same kind falls into each with the same chance. How likely each bin is follows
    from the count of its gaps, whatever the distribution; no histogram is estimated.

    Raises:
        UsageError: if a field is out of range.
    """

    images: int  # m, of which each counts once: one image per group, where there are groups
    ranks: tuple[int, ...]  # (E,) of the edges among the images, from 1 to m, ascending
    statistics: Mapping[str, ReferenceStatistic]

    def __post_init__(self) -> None:
        if self.images < LEAST_IMAGES:
            raise UsageError(f"images must be at least {LEAST_IMAGES}.")
        ranks = list(self.ranks)
        if not ranks or ranks != sorted(set(ranks)) or ranks[0] < 1 or ranks[-1] > self.images:
            raise UsageError(f"ranks must ascend, each from 1 to {self.images}.")
        if not 1 <= len(self.statistics) <= MOST_STATISTICS:
            raise UsageError(f"statistics must be from 1 to {MOST_STATISTICS}.")
        if any(len(each.edges) != len(ranks) for each in self.statistics.values()):
            raise UsageError(f"each statistic needs {len(ranks)} edges, one per rank.")

    @property
    def gaps(self) -> Numbers:
        """Gaps between neighbouring images in each bin, (E + 1,); their sum is `images` + 1."""
        return np.diff([0, *self.ranks, self.images + 1]).astype(np.float64)

    @property
    def names(self) -> tuple[str, ...]:
        """The statistics, in a fixed order."""
        return tuple(self.statistics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MonitorReference:
        """Build from plain data (lists become tuples).

        Raises:
            UsageError: if a field is missing, unknown, of another type or out of range.
        """
        return read_fields(cls, data, "reference")


def reference_of(rows: Numbers, names: tuple[str, ...]) -> MonitorReference | None:
    """Make a reference from the statistics of m images.

    Args:
        rows: (m, S); a column with a number that is not finite is left out, such as the width of
            intervals where there are none.
        names: (S,) of the columns.

    Returns:
        The reference; None if there are fewer than `LEAST_IMAGES` images.
    """
    count = len(rows)
    if count < LEAST_IMAGES:
        return None
    levels = (round(level * (count + 1)) for level in LEVELS)
    ranks = sorted({1, count, *(rank for rank in levels if 1 <= rank <= count)})
    kept = dict(_distributions(rows, names, ranks))
    return MonitorReference(count, tuple(ranks), kept) if kept else None


def _distributions(
    rows: Numbers, names: tuple[str, ...], ranks: list[int]
) -> Iterator[tuple[str, ReferenceStatistic]]:
    rng = np.random.default_rng(0)
    for name, column in zip(names, np.asarray(rows, np.float64).T, strict=True):
        noise = rng.random(len(column)) - 0.5
        if not np.isfinite(column).all():
            continue
        # a number of the images alone would differ between them; of constant ones there is none
        jitter = JITTER * (float(np.ptp(column)) or abs(float(column[0])) or 1.0)
        ordered = np.sort(column + jitter * noise)
        edges = tuple(ordered[np.array(ranks) - 1].tolist())
        if len(set(edges)) == len(edges):
            yield name, ReferenceStatistic(edges, float(column.mean()), jitter)
