"""Parts of a set of samples: splits by group, few shots, a shifted label distribution, a tail.

The last three are the papers' protocols with less data. Source: OrdinalCLIP (arXiv 2206.02338),
section 4, and its released code; counts depend on raw labels, not on bins.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from numclip.data.samples import Sample
from numclip_runtime import Task, UsageError
from numclip_runtime.task import as_written

CALIBRATION_SHARE = 0.5  # of the validation images, where they are enough
LEAST_IMAGES = 40  # together, for that: 95 % intervals need 19 in the part that is kept
LEAST_GROUPS = 19  # in the part that is kept, if there are groups; fewer make wide intervals


def split_samples(
    samples: Sequence[Sample], fractions: Sequence[float], task: Task, *, seed: int
) -> list[list[Sample]]:
    """Cut samples into parts that each have about the same share of every bin.

    Samples of one group (see `Sample`) stay together, in one part; a sample without group is a
    group of its own. Groups are taken at random, larger ones first, and each goes to the part that
    lacks most of its bins. A bin of two samples thus reaches two parts, however small the fraction.

    Args:
        samples: Samples to split.
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
    """Return the share of its target that a part still lacks, averaged over a group's bins."""
    return sum(n * (1 - have.get(b, 0) / (fraction * totals[b])) for b, n in counts.items())


@dataclass(frozen=True)
class ValidationParts:
    """Validation samples by their use."""

    choosing: list[Sample]  # choose the epoch, and the temperature of the bins
    kept: list[Sample]  # for the factors of the intervals alone; empty: `choosing` fit these too
    note: str  # one line for people


def calibration_split(
    samples: Sequence[Sample], share: float | None, task: Task, *, seed: int
) -> ValidationParts:
    """Keep a part of the validation samples for the intervals alone; groups stay together.

    Intervals hold what they state if their images chose nothing else. The best of 50 epochs on the
    same 40 images makes 90 % intervals hold 83 to 88 %.

    Args:
        samples: Validation samples.
        share: Share to keep; 0 keeps none. None: half, of 40 samples or more, if 19 groups are kept
            where samples have groups.
        task: Gives the bins, of which each part gets its share.
        seed: The same seed gives the same split.

    Raises:
        UsageError: if a share is given, and a part would be empty.
    """
    choosing, kept = list(samples), list[Sample]()
    part = CALIBRATION_SHARE if share is None else share
    if part:
        try:
            choosing, kept = split_samples(samples, (1 - part, part), task, seed=seed)
        except UsageError:
            if share is not None:
                raise UsageError(
                    f"--calibration-share {share:g}: the {len(samples)} validation images cannot "
                    "be divided so; give more images or groups, or --calibration-share 0."
                ) from None
    count = len({sample.group for sample in kept} - {""})
    if share is None and (len(samples) < LEAST_IMAGES or 0 < count < LEAST_GROUPS):
        choosing, kept = list(samples), []
    if kept:
        of_groups = f" of {count} groups" if count else ""
        note = (
            f"validation: {len(choosing)} images choose the epoch, {len(kept)}{of_groups} are kept "
            "for the intervals alone (--calibration-share)"
        )
    else:
        too_few = "" if share == 0 else ", too few to keep some of them for these"
        note = (
            f"validation: all {len(samples)} images choose the epoch and fit the intervals{too_few}"
        )
        if not any(sample.group for sample in samples):  # simulated; of groups it costs less
            note += "; 90% intervals then hold some 85%"
        note += " (--calibration-share)"
    return ValidationParts(choosing, kept, note)


def few_shot(samples: Sequence[Sample], shots: int, *, seed: int) -> list[Sample]:
    """Keep `shots` random samples of each distinct label, or all where there are fewer.

    The label of several annotations is then their median in training too, as in the released code.
    """
    if shots < 1:
        raise UsageError(f"few-shot: --shots must be at least 1, got {shots}.")
    kept = _keep(samples, dict.fromkeys(_by_label(samples), shots), seed)
    return [replace(sample, annotations=()) for sample in kept]


def shift_labels(samples: Sequence[Sample], top: int, keep: float, *, seed: int) -> list[Sample]:
    """Thin out the most frequent labels: keep int(n * keep) of their n samples, at least one.

    Several annotators' labels stay, and training draws among them; the released code trains on
    their median after the shift.

    Args:
        samples: Training samples.
        top: How many labels are thinned out; of equally frequent ones the smaller first.
        keep: Share kept of each. The papers' "10-90" is top 10 and keep 0.1.
        seed: The same seed keeps the same samples.
    """
    if top < 1 or not 0 < keep <= 1:
        raise UsageError(
            f"label shift: --shift-top must be at least 1 and --shift-keep above 0 and at most 1, "
            f"got {top} and {keep:g}."
        )
    counts = {label: len(members) for label, members in _by_label(samples).items()}
    frequent = sorted(counts, key=lambda label: -counts[label])[:top]  # counts ascend by label
    return _keep(
        samples,
        counts | {label: max(int(counts[label] * keep), 1) for label in frequent},
        seed,
    )


def from_label(samples: Sequence[Sample], lowest: float) -> list[Sample]:
    """Keep the samples with a label of at least `lowest`: evaluation on a long tail."""
    kept = [sample for sample in samples if sample.label >= lowest]
    if not kept:
        raise UsageError(
            f"long tail: no label is {as_written(lowest)} or above, the highest is "
            f"{as_written(max(sample.label for sample in samples))}; lower --val-min-label."
        )
    return kept


def _by_label(samples: Sequence[Sample]) -> dict[float, list[int]]:
    members: dict[float, list[int]] = {}
    for i, sample in enumerate(samples):
        members.setdefault(sample.label, []).append(i)
    return dict(sorted(members.items()))


def _keep(samples: Sequence[Sample], counts: Mapping[float, int], seed: int) -> list[Sample]:
    """Draw counts[label] samples of each label without replacement, in the order of `samples`."""
    chance = random.Random(seed)
    kept: list[int] = []
    for label, members in _by_label(samples).items():
        kept += chance.sample(members, min(counts[label], len(members)))
    return [samples[i] for i in sorted(kept)]
