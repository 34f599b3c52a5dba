"""Splits by group, and the papers' protocols with less data."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from numclip.data.samples import Sample
from numclip.data.subsets import few_shot, from_label, shift_labels, split_samples
from numclip.tasks import load_task
from numclip_runtime import UsageError
from tests.numclip.golden import case

GIVEN, OUT = case("subsampling_counts")
HISTOGRAM = {int(age): count for age, count in GIVEN["hist"].items()}  # samples of each age
SAMPLES = [
    Sample(Path(f"{label}-{i}.png"), float(label), (float(label), 99.0))
    for label, count in HISTOGRAM.items()
    for i in range(count)
]


def counts(samples: list[Sample]) -> dict[float, int]:
    return dict(Counter(sample.label for sample in samples))


def golden(name: str) -> dict[float, int]:
    return {int(age): count for age, count in OUT[name].items()}


def test_few_shot_golden() -> None:
    kept = few_shot(SAMPLES, 4, seed=0)
    assert counts(kept) == golden("4-shot")
    assert {sample.annotations for sample in kept} == {()}  # collapsed to the median


@pytest.mark.parametrize(
    ("top", "keep", "expected"),
    [
        (2, 0.1, golden("shift_top2_keep0.1")),
        (5, 0.2, golden("shift_top5_keep0.2")),
        (9, 1.0, HISTOGRAM),
    ],
)
def test_shift_golden(top: int, keep: float, expected: dict[float, int]) -> None:
    kept = shift_labels(SAMPLES, top, keep, seed=0)
    assert counts(kept) == expected
    assert {len(sample.annotations) for sample in kept} == {2}


def test_shift_takes_the_smaller_of_equally_frequent_labels() -> None:
    samples = [Sample(Path(f"{i}.png"), float(i % 2)) for i in reversed(range(20))]
    assert counts(shift_labels(samples, 1, 0.5, seed=0)) == {0: 5, 1: 10}


def test_without_replacement_in_order_and_by_seed() -> None:
    kept = few_shot(SAMPLES, 8, seed=1)
    paths = [sample.path for sample in kept]
    assert len(set(paths)) == len(paths)
    assert paths == [sample.path for sample in SAMPLES if sample.path in set(paths)]
    assert few_shot(SAMPLES, 8, seed=1) == kept
    assert few_shot(SAMPLES, 8, seed=2) != kept


def test_from_label_is_closed() -> None:
    assert counts(from_label(SAMPLES, 22)) == {22: 10, 23: 3, 24: 1}
    with pytest.raises(UsageError, match=r"no label is 24\.5 or above, the highest is 24; lower"):
        from_label(SAMPLES, 24.5)


def test_wrong_numbers() -> None:
    with pytest.raises(UsageError, match="--shots must be at least 1, got 0"):
        few_shot(SAMPLES, 0, seed=0)
    for top, keep in ((0, 0.1), (10, 0.0), (10, 1.5)):
        with pytest.raises(UsageError, match=rf"--shift-top .* got {top} and {keep:g}"):
            shift_labels(SAMPLES, top, keep, seed=0)


TASK = replace(load_task("historical"), label_offset=0.0)  # lists of 0 to 4


def samples(*per_bin: int, group: str = "") -> list[Sample]:
    return [
        Sample(Path(f"{k}-{i}.png"), float(k), (), group)
        for k, count in enumerate(per_bin)
        for i in range(count)
    ]


def bins(part: list[Sample]) -> list[int]:
    counts = Counter(int(sample.label) for sample in part)
    return [counts[k] for k in range(5)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stratified(seed: int) -> None:
    everything = samples(100, 10, 5, 2, 1)
    train, val = split_samples(everything, (0.8, 0.2), TASK, seed=seed)
    assert (bins(train), bins(val)) == ([80, 8, 4, 1, 1], [20, 2, 1, 1, 0])
    assert sorted(train + val, key=everything.index) == everything
    assert train == sorted(train, key=everything.index)


def test_three_parts() -> None:
    parts = split_samples(samples(20, 20, 20, 20, 20), (0.5, 0.3, 0.2), TASK, seed=0)
    assert [bins(part) for part in parts] == [[10] * 5, [6] * 5, [4] * 5]


def test_seed_decides() -> None:
    def val(seed: int) -> list[Sample]:
        return split_samples(samples(50), (0.8, 0.2), TASK, seed=seed)[1]

    assert val(3) == val(3)
    assert val(3) != val(4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_stay_whole_and_balanced(seed: int) -> None:
    chance = random.Random(seed)
    everything = [
        Sample(Path(f"{i}.png"), float(chance.randrange(5)), (), f"p{chance.randrange(60)}")
        for i in range(500)
    ]
    train, val = split_samples(everything, (0.8, 0.2), TASK, seed=seed)
    assert not {s.group for s in train} & {s.group for s in val}
    for all_of, held in zip(bins(everything), bins(val), strict=True):
        assert held / all_of == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_bin_counts_as_much_as_a_frequent_one(seed: int) -> None:
    """Twenty of fifty people have one image of the rare bin, beside 1 to 19 frequent ones."""
    chance = random.Random(seed)
    everything = [
        Sample(Path(f"{person}-{i}.png"), float(i == 0), (), f"p{person}")
        for person in range(50)
        for i in range(0 if person < 20 else 1, chance.randrange(2, 21))
    ]
    _, val = split_samples(everything, (0.8, 0.2), TASK, seed=seed)
    assert bins(val)[1] == 4


@pytest.mark.parametrize("seed", range(5))
def test_larger_groups_are_placed_first(seed: int) -> None:
    everything = samples(30, group="large") + samples(70)
    train, val = split_samples(everything, (0.8, 0.2), TASK, seed=seed)
    assert (len(train), len(val)) == (80, 20)
    assert {s.group for s in val} == {""}


def test_too_few_groups() -> None:
    with pytest.raises(UsageError, match=r"9 samples in 1 groups are too few .* 80%, 20%; give"):
        split_samples(samples(9, group="one"), (0.8, 0.2), TASK, seed=0)


@pytest.mark.parametrize("fractions", [(0.8, 0.3), (1.0, 0.0), (1.2, -0.2)])
def test_fractions_must_be_shares(fractions: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="fractions must be above 0 and sum to 1, got"):
        split_samples(samples(9), fractions, TASK, seed=0)
