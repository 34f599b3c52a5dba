"""What a monitor answers, and the state that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass

RESEMBLING = 0.3  # correlation of images in a row from which they are not independent


@dataclass(frozen=True)
class Change:
    """A change that a monitor has noticed."""

    statistic: str  # that moved most surely, see `statistics`
    since: int  # first image of the change, counted from 1; an estimate
    noticed: int  # image at which the evidence sufficed
    before: float  # mean of the reference
    after: float  # mean from `since` to `noticed`


@dataclass(frozen=True)
class StatisticNow:
    """One statistic of a monitor."""

    reference_mean: float
    recent_mean: float  # over about the last 128 images that counted
    # largest difference between the distribution functions of the reference and of all images that
    # counted, and of about the last 128: 0 alike, 1 apart (Kolmogorov-Smirnov)
    distance: float
    recent_distance: float
    evidence: float  # capital of its bettors; began with 1


@dataclass(frozen=True)
class Verdict:
    """The answer of a monitor after the images that it has seen."""

    images: int  # seen
    counted: int  # of these; the others were left out by `every`
    false_alarm_rate: float  # of the whole run, for independent images
    # chance of so much evidence, now or at any time before, if nothing has moved
    p_value: float
    change: Change | None  # the first that was noticed; it stays
    # Share of images with a statistic beyond all images of the reference, over all and over about
    # the last 128; and its largest expected share if nothing has moved
    unfamiliar: float
    recent_unfamiliar: float
    expected_unfamiliar: float
    resemblance: float  # correlation of images in a row; about 0 if they are independent
    statistics: dict[str, StatisticNow]
    sentence: str  # all this, for people

    @property
    def moved(self) -> bool:
        """Whether the world has moved."""
        return self.change is not None

    @property
    def dependent(self) -> bool:
        """Whether images in a row resemble each other, so that the rate does not hold."""
        return self.resemblance > RESEMBLING


@dataclass(frozen=True)
class MonitorState:
    """Everything that a monitor goes on from; the arrays of `Evidence` and others, flattened."""

    images: int
    chosen: int
    count: int
    unfamiliar: int
    recent_unfamiliar: float
    best: float
    windows: int
    correlations: tuple[float, ...]
    sums: tuple[float, ...]
    recent_means: tuple[float, ...]
    seen: tuple[float, ...]
    recent: tuple[float, ...]
    capital: tuple[float, ...]
    gain: tuple[float, ...]
    since: tuple[float, ...]
    change: Change | None = None


def shown_p(p_value: float) -> str:
    """Return "= 0.02" for people, or "< 1e-12"."""
    return f"= {p_value:.2g}" if p_value >= 1e-12 else "< 1e-12"
