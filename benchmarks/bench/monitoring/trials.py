"""Streams of images drawn by chance, and what a monitor says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.app.monitoring.monitored_opening import open_for_monitor
from numclip_runtime.backends import OpenOptions
from numclip_runtime.errors import ImageError
from numclip_runtime.monitor.evidence import Evidence
from numclip_runtime.monitor.monitor import FALSE_ALARM_RATE, Monitor
from numclip_runtime.monitor.reference import MonitorReference, Numbers, reference_of
from numclip_runtime.monitor.statistics import STATISTICS, output_statistics
from numclip_runtime.preprocess import load_rgb


@dataclass(frozen=True)
class Said:
    """The part of a prediction that a monitor needs, from a row of statistics."""

    value: float
    interval: tuple[float, float] | None
    bin_probs: dict[str, float]


class RowMonitor(Monitor):
    """A monitor that is given rows of statistics, so that a network runs once per image."""

    def add_row(self, row: Numbers) -> bool:
        """Take in the (9,) `STATISTICS` of an image; see `Monitor.add`."""
        self.images += 1
        return self._count(tuple(row))


@dataclass(frozen=True)
class Detection:
    """Images from a change to its notice, over trials."""

    trials: int
    found: int
    early: int  # notices before the change: false alarms
    images: tuple[int, ...]  # of those found, ascending
    statistics: tuple[str, ...]  # that were named, most often first
    since_error: float | None  # median distance of the estimated from the true first image


def rows_of_images(
    model: Path, paths: Sequence[str], change: Callable[[Image.Image], Image.Image]
) -> Numbers:
    """Return (N, 9) `STATISTICS` of images after a change."""
    opening = OpenOptions(optimize_for="throughput")
    with open_for_monitor(model, opening, MonitorOptions(monitor=Path("-"))) as predictor:
        pictures = (change(load_rgb(path)) for path in paths)
        rows = []
        for found in predictor.stream(pictures):
            assert not isinstance(found, ImageError)
            assert found.input_statistics is not None
            rows.append((*output_statistics(found), *found.input_statistics))
    return np.array(rows)


def false_alarms(rows: Numbers, trials: int, *, seed: int = 0) -> tuple[int, list[float]]:
    """Split images by chance into a reference and a stream, many times.

    Returns:
        How many streams were called changed, and the p-value of each trial.
    """
    rng, p_values, alarms = np.random.default_rng(seed), [], 0
    for _ in range(trials):
        order = rng.permutation(len(rows))
        half = len(rows) // 2
        reference = reference_of(rows[order[:half]], STATISTICS)
        assert reference is not None
        monitor = RowMonitor(reference)
        alarms += any(monitor.add_row(row) for row in rows[order[half:]])
        p_values.append(monitor.verdict().p_value)
    return alarms, p_values


def long_false_alarms(
    images: int, reference_images: int, *, trials: int, seed: int = 0
) -> dict[str, float]:
    """Follow streams of random numbers, each beside a reference of its own.

    Returns:
        The share of streams whose capital ever reached 1 / rate, for some rates; by the rate.
    """
    rng = np.random.default_rng(seed)
    references = [
        reference_of(rng.normal(size=(reference_images, 1)), ("x",)) for _ in range(trials)
    ]
    edges = np.array([each.statistics["x"].edges for each in references if each is not None])
    assert references[0] is not None
    evidence, best = Evidence(references[0].gaps, trials), np.ones(trials)
    for _ in range(images):
        evidence.add((rng.normal(size=trials)[:, None] >= edges).sum(1))
        np.maximum(best, evidence.of_each, out=best)
    return {f"{rate:g}": float((best >= 1 / rate).mean()) for rate in (0.1, 0.05, FALSE_ALARM_RATE)}


def detections(
    reference: MonitorReference,
    before: Numbers,
    after: Numbers,
    *,
    quiet: int,
    trials: int,
    seed: int = 0,
) -> Detection:
    """Let the world change in the middle of a stream, many times.

    Args:
        reference: Of the model.
        before: (N, 9) statistics of N images as they were.
        after: (N, 9) statistics of the same images after the change.
        quiet: Images before the change.
        trials: Streams, each in an order of its own.
        seed: Of the orders.
    """
    rng, lengths, named, early, errors = np.random.default_rng(seed), [], [], 0, []
    for _ in range(trials):
        order = rng.permutation(len(before))
        monitor = RowMonitor(reference)
        stream = np.concatenate([before[order[:quiet]], after[order[quiet:]]])
        for number, row in enumerate(stream, 1):
            if monitor.add_row(row):
                change = monitor.change
                assert change is not None
                if number <= quiet:
                    early += 1
                else:
                    lengths.append(number - quiet)
                    named.append(change.statistic)
                    errors.append(abs(change.since - quiet - 1))
                break
    names = sorted(set(named), key=lambda name: -named.count(name))
    return Detection(
        trials, len(lengths), early, tuple(sorted(lengths)), tuple(names),
        float(np.median(errors)) if errors else None,
    )  # fmt: skip
