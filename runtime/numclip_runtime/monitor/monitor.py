"""A monitor: has the world moved since the model was calibrated?"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from numclip_runtime.errors import UsageError
from numclip_runtime.monitor.evidence import Evidence
from numclip_runtime.monitor.reference import MonitorReference, Numbers
from numclip_runtime.monitor.resemblance import Resemblance
from numclip_runtime.monitor.statistics import STATISTICS, Predicted, output_statistics
from numclip_runtime.monitor.verdict import (
    RESEMBLING,
    Change,
    MonitorState,
    StatisticNow,
    Verdict,
    shown_p,
)

# Chance that a monitor ever says that unchanged images have moved, however long it runs
FALSE_ALARM_RATE = 0.01
MEMORY = 128  # images that the recent means and shares follow, fading
# Share of its usual spread by which the mean must differ to be what the verdict is about
PLAIN_SHIFT = 0.3


class Monitor:
    """Follow the statistics of predictions; threads may share it. Nothing is kept per image.

    Args:
        reference: Of the model, `ModelMetadata.reference`, or another one.
        every: Of so many images in a row one counts, chosen by chance: for images that follow each
            other, such as frames, and are not independent.
    """

    def __init__(self, reference: MonitorReference, *, every: int = 1) -> None:
        self.reference, self.every = reference, every
        names = reference.names
        self.images = self.unfamiliar = 0
        self.best = 1.0  # largest evidence so far
        self.change: Change | None = None
        self.evidence = Evidence(reference.gaps, len(names))
        self.resemblance = Resemblance(len(names))
        self.sums = np.zeros(len(names))  # of the images since `evidence.since`
        self.recent_means = np.array([each.mean for each in reference.statistics.values()])
        self.recent_unfamiliar = 0.0
        self.chosen = 0  # place in its block of the image that counts
        self._edges = np.array([each.edges for each in reference.statistics.values()])
        self._jitter = np.array([each.jitter for each in reference.statistics.values()])
        self._columns = [STATISTICS.index(name) for name in names]
        shares = np.cumsum(reference.gaps) / reference.gaps.sum()
        self._below = shares[:-1]  # (E,) share of the reference below each edge
        self._middles = shares - reference.gaps / (2 * reference.gaps.sum())  # (B,)
        self._last = len(reference.gaps) - 1
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(0)

    def add(self, prediction: Predicted, inputs: Sequence[float] | None = None) -> bool:
        """Take in one image.

        Args:
            prediction: What the model says of it.
            inputs: (6,) `input_statistics` of it; None: those of the prediction.

        Returns:
            Whether this image makes the monitor notice a change, which happens once.

        Raises:
            ValueError: if the statistics of the input are not known.
        """
        found = inputs if inputs is not None else getattr(prediction, "input_statistics", None)
        if found is None:
            raise ValueError("the monitor needs the statistics of the network's input.")
        with self._lock:
            place = self.images % self.every
            if place == 0 and self.every > 1:
                self.chosen = int(self._rng.integers(self.every))
            self.images += 1
            return place == self.chosen and self._count((*output_statistics(prediction), *found))

    def state(self) -> MonitorState:
        """Return what another monitor of the same reference can go on from."""
        with self._lock:
            evidence, resemblance = self.evidence, self.resemblance
            return MonitorState(
                images=self.images,
                chosen=self.chosen,
                count=evidence.count,
                unfamiliar=self.unfamiliar,
                recent_unfamiliar=self.recent_unfamiliar,
                best=self.best,
                windows=resemblance.windows,
                correlations=_flat(resemblance.sums),
                sums=_flat(self.sums),
                recent_means=_flat(self.recent_means),
                seen=_flat(evidence.seen),
                recent=_flat(evidence.recent),
                capital=_flat(evidence.capital),
                gain=_flat(evidence.gain),
                since=_flat(evidence.since),
                change=self.change,
            )

    def restore(self, state: MonitorState) -> None:
        """Go on from a state; chance begins anew, by the number of images.

        Raises:
            UsageError: if it does not fit the reference.
        """
        evidence, resemblance = self.evidence, self.resemblance
        pairs = (
            (resemblance.sums, state.correlations),
            (self.sums, state.sums),
            (self.recent_means, state.recent_means),
            (evidence.seen, state.seen),
            (evidence.recent, state.recent),
            (evidence.capital, state.capital),
            (evidence.gain, state.gain),
            (evidence.since, state.since),
        )
        counts = (state.images, state.count, state.unfamiliar, state.windows, *state.seen)
        if (
            any(array.size != len(numbers) for array, numbers in pairs)
            or min(*counts, *state.recent, *state.capital) < 0
            or not 0 <= state.chosen < self.every
        ):
            raise UsageError("its state does not fit the reference of the model.")
        for array, numbers in pairs:
            array.flat[:] = numbers
        self.images, self.chosen, self.best = state.images, state.chosen, state.best
        self.unfamiliar, self.recent_unfamiliar = state.unfamiliar, state.recent_unfamiliar
        self.change, evidence.count, resemblance.windows = state.change, state.count, state.windows
        self._rng = np.random.default_rng(self.images)

    def _count(self, row: tuple[float, ...]) -> bool:
        numbers = np.array(row)[self._columns]  # (S,)
        shaken = numbers + self._jitter * (self._rng.random(len(numbers)) - 0.5)
        bins = (shaken[:, None] >= self._edges).sum(1)
        low = self.evidence.add(bins)
        self.sums += numbers
        self.sums[low] = 0
        self.recent_means += (numbers - self.recent_means) / MEMORY
        strange = bool(((bins == 0) | (bins == self._last)).any())
        self.unfamiliar += strange
        self.recent_unfamiliar += (strange - self.recent_unfamiliar) / MEMORY
        self.resemblance.add(self._middles[bins])
        if (now := self.evidence.of_all) > self.best:
            self.best = now
            if self.change is None and now >= 1 / FALSE_ALARM_RATE:
                self.change = self._noticed()
                return True
        return False

    def _noticed(self) -> Change:
        evidence = self.evidence
        most = int(evidence.of_each.argmax())
        before = int(evidence.since[most])
        name = self.reference.names[most]
        return Change(
            statistic=name,
            since=before * self.every + 1,
            noticed=self.images,
            before=self.reference.statistics[name].mean,
            after=float(self.sums[most]) / max(evidence.count - before, 1),
        )

    def verdict(self) -> Verdict:
        """Return the answer so far."""
        with self._lock:
            count, gaps = self.evidence.count, self.reference.gaps
            names = self.reference.names
            all_distance = self._distances(self.evidence.seen)
            recent_distance = self._distances(self.evidence.recent[1])
            statistics = {
                name: StatisticNow(
                    reference_mean=self.reference.statistics[name].mean,
                    recent_mean=float(self.recent_means[i]),
                    distance=float(all_distance[i]),
                    recent_distance=float(recent_distance[i]),
                    evidence=float(self.evidence.of_each[i]),
                )
                for i, name in enumerate(names)
            }
            p_value = min(1.0, 1 / self.best)
            resemblance = self.resemblance.correlation
            return Verdict(
                images=self.images,
                counted=count,
                false_alarm_rate=FALSE_ALARM_RATE,
                p_value=p_value,
                change=self.change,
                unfamiliar=self.unfamiliar / max(count, 1),
                recent_unfamiliar=self.recent_unfamiliar,
                expected_unfamiliar=min(1.0, 2 * len(names) / float(gaps.sum())),
                resemblance=resemblance,
                statistics=statistics,
                sentence=self._sentence(p_value, resemblance),
            )

    def _distances(self, counts: Numbers) -> Numbers:
        """Return the Kolmogorov-Smirnov distance at the edges of (S, B) counts, (S,)."""
        total = counts.sum(1, keepdims=True)
        shares = counts.cumsum(1)[:, :-1] / np.maximum(total, 1e-9)
        distances: Numbers = np.where(total[:, 0] > 0, np.abs(shares - self._below).max(1), 0.0)
        return distances

    def _sentence(self, p_value: float, resemblance: float) -> str:
        change, rate = self.change, f"{FALSE_ALARM_RATE:.0%}"
        if change is None:
            text = f"no change in {self.images:,} images (p {shown_p(p_value)})"
        else:
            text = (
                f"the images have changed: {self._shift(change)} since about image "
                f"{change.since:,}, noticed at image {change.noticed:,} (p {shown_p(p_value)}; "
                f"unchanged images give such a notice in at most {rate} of runs, however long)"
            )
        if resemblance > RESEMBLING:
            text += (
                f"; images in a row resemble each other (correlation {resemblance:.2f}), and the "
                f"rate of {rate} holds for independent images only: --monitor-every counts fewer"
            )
        return text

    def _shift(self, change: Change) -> str:
        edges = self.reference.statistics[change.statistic].edges
        low, high = (edges[int(np.searchsorted(self._below, share))] for share in (0.15, 0.85))
        step = change.after - change.before
        numbers = f"{change.before:.4g} to {change.after:.4g}"
        if abs(step) < PLAIN_SHIFT * (high - low) / 2:
            return f"{change.statistic} is spread otherwise (mean {numbers})"
        return f"{change.statistic} went {'up' if step > 0 else 'down'} from {numbers} in the mean"


def _flat(array: Numbers) -> tuple[float, ...]:
    return tuple(array.ravel().tolist())
