"""Cut one set of samples into training and validation."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from numclip.data.samples import Sample
from numclip_runtime import Task, UsageError


def split_samples(
    samples: Sequence[Sample], fractions: Sequence[float], task: Task, *, seed: int
) -> list[list[Sample]]:
    """Cut samples into parts that each have about the same share of every bin.

    Samples of one group (see `Sample`) stay together, in one part; a sample without group is one
    of its own. Groups are taken at random, larger ones first, and each goes to the part that lacks
    most of its bins. A bin of two samples is so in two parts, however small the fraction.

    Args:
        samples: What to split.
        fractions: Share of each part; they sum to 1.
        task: Gives the bins.
        seed: The same seed gives the same split.

    Returns:
        One list for each fraction, in the order of `samples`.

    Raises:
        UsageError: if the fractions are not shares, or a part would be empty.
    """
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1):
        raise UsageError(f"split: fractions must be above 0 and sum to 1, got {list(fractions)}.")
    groups: dict[object, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.group or i, []).append(i)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)

    bins = [task.bin_of(sample.label) for sample in samples]
    totals = Counter(bins)
    have: list[Counter[int]] = [Counter() for _ in fractions]
    parts: list[list[int]] = [[] for _ in fractions]
    for members in order:
        counts = Counter(bins[i] for i in members)
        chosen = max(
            range(len(fractions)),
            key=lambda p: (_need(counts, have[p], totals, fractions[p]), fractions[p]),
        )
        parts[chosen] += members
        have[chosen] += counts
    if not all(parts):
        raise UsageError(
            f"split: {len(samples)} samples in {len(order)} groups are too few for parts of "
            f"{', '.join(f'{fraction:.0%}' for fraction in fractions)}; give --val."
        )
    return [[samples[i] for i in sorted(part)] for part in parts]


def _need(
    counts: Mapping[int, int], have: Mapping[int, int], totals: Mapping[int, int], fraction: float
) -> float:
    """Return how much of its wanted share a part still lacks, averaged over a group's bins."""
    return sum(n * (1 - have.get(b, 0) / (fraction * totals[b])) for b, n in counts.items())


def shared_groups(first: Iterable[Sample], second: Iterable[Sample]) -> set[str]:
    """Return the groups that have samples in both."""
    return ({s.group for s in first} & {s.group for s in second}) - {""}
