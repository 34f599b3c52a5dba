"""Few-shot, label shift and long tail against the counts of the papers' code."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from numclip.data.samples import Sample
from numclip.data.subsets import few_shot, from_label, shift_labels
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
