"""The evidence of a monitor is a fair game where nothing moves, and grows where something does."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import pytest

from numclip_runtime.monitor.evidence import Evidence
from numclip_runtime.monitor.reference import Numbers, reference_of


def edges_of(samples: Numbers) -> tuple[Numbers, Numbers]:
    """Return gaps (B,) and edges (S, B - 1) of references that are the columns of (m, S)."""
    names = tuple(str(i) for i in range(32))
    edges, gaps = [], np.zeros(0)
    for start in range(0, samples.shape[1], 32):
        part = samples[:, start : start + 32]
        reference = reference_of(part, names[: part.shape[1]])
        assert reference is not None
        gaps = reference.gaps
        edges += [each.edges for each in reference.statistics.values()]
    return gaps, np.array(edges)


def bins(numbers: Numbers, edges: Numbers) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = (numbers[:, None] >= edges).sum(1)
    return found


@pytest.mark.parametrize("images", [20, 60, 400])
def test_each_bin_is_as_likely_as_its_gaps(images: int) -> None:
    rng = np.random.default_rng(images)
    streams = 20_000
    reference = np.sort(rng.exponential(size=(streams, images)), axis=1)
    one = reference_of(reference[0][:, None], ("x",))
    assert one is not None
    edges = reference[:, np.array(one.ranks) - 1]
    first, second = (bins(rng.exponential(size=streams), edges) for _ in range(2))
    chance = one.gaps / one.gaps.sum()
    shares = np.bincount(first, minlength=len(chance)) / streams
    assert np.abs(shares - chance).max() < 4 * np.sqrt(0.25 / streams)
    for place in range(len(chance)):
        given = first == place
        expected = (one.gaps[place] + 1) / (images + 2)
        assert abs((second[given] == place).mean() - expected) < 4 * np.sqrt(
            expected / max(given.sum(), 1)
        )


def test_no_bet_gains_in_the_mean() -> None:
    rng = np.random.default_rng(1)
    gaps, edges = edges_of(rng.normal(size=(80, 3)))
    evidence = Evidence(gaps, 3)
    for number in rng.normal(0.5, 1, (50, 3)):
        evidence.add(bins(number, edges))
    chance = (gaps + evidence.seen) / (gaps.sum() + evidence.count)  # (3, B)
    mean = np.zeros(3)
    for place in range(len(gaps)):
        after = copy.deepcopy(evidence)
        after.add(np.full(3, place))
        mean += chance[:, place] * after.of_each
    np.testing.assert_allclose(mean, evidence.of_each, rtol=1e-9)


@pytest.mark.parametrize("images", [25, 300])
def test_unchanged_streams_seldom_reach_a_large_capital(images: int) -> None:
    rng = np.random.default_rng(images)
    streams = 1_000
    gaps, edges = edges_of(rng.normal(size=(images, streams)))
    evidence, best = Evidence(gaps, streams), np.ones(streams)
    for _ in range(400):
        evidence.add(bins(rng.normal(size=streams), edges))
        np.maximum(best, evidence.of_each, out=best)
    for bound in (5, 20, 100):
        assert (best >= bound).mean() <= 1 / bound + 3 * np.sqrt(1 / bound / streams)


@pytest.mark.parametrize("quiet", [0, 3_000])
def test_a_change_is_found_early_and_late(quiet: int) -> None:
    rng = np.random.default_rng(2)
    gaps, edges = edges_of(rng.normal(size=(200, 20)))
    evidence = Evidence(gaps, 20)
    for _ in range(quiet):
        evidence.add(bins(rng.normal(size=20), edges))
    for _ in range(100):
        evidence.add(bins(rng.normal(1.5, 1, 20), edges))
    assert evidence.of_each.min() > 1_000
    assert np.median(np.abs(evidence.since - quiet)) < 30


def test_a_reference_needs_images_and_leaves_out_what_is_not_finite() -> None:
    rng = np.random.default_rng(0)
    assert reference_of(rng.normal(size=(19, 1)), ("x",)) is None
    rows = np.column_stack([rng.normal(size=30), np.full(30, np.nan), np.zeros(30)])
    reference = reference_of(rows, ("x", "width", "constant"))
    assert reference is not None
    assert reference.names == ("x", "constant")
    assert reference.gaps.sum() == 31
