"""A test that may be looked at after every image, and keeps its rate for as long as it runs.

Each statistic of an image falls into one of the bins of the reference. If reference and stream are
drawn alike, whatever from, the next image falls into bin b with the chance

    (gaps_b + seen_b) / (sum of both)

given all that was seen (Polya's urn): so the finite reference costs no accuracy. A bettor who
starts with capital 1 and bets on the bins against these odds cannot expect to gain; by Ville's
inequality the chance that the capital ever reaches 1 / rate is at most `rate`. If the world moves,
a bettor who follows the recent images gains with every image.

Four bettors share a capital. One sleeps; the others bet on what the last 16, 128 and 1,024 images
were like. From the sleeper capital flows to them, ever more slowly, so that a change is found after
a million images as well.

Of S statistics each is its own fair game, so the world has moved once one of the capitals reaches
S / rate, however the statistics depend on each other. (Their mean is not a fair game: what one
statistic has seen may tell about the odds of another.)

Source:
    Test martingales: Ville 1939; Shafer et al., "Test martingales, Bayes factors and p-values"
    (arXiv 0912.4269). Testing exchangeability online: Vovk, Nouretdinov and Gammerman, ICML 2003.
    Following a change with shared capital: Herbster and Warmuth, "Tracking the best expert", 1998.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from numclip_runtime.monitor.reference import Numbers

MEMORIES = (16, 128, 1024)  # images that the bettors follow
PRIOR = 2.0  # images by which a bettor believes the odds before it follows the stream
# The sleeper has half of its capital left after so many images, a third after twice as many: a
# change after n images is noticed as if the rate were smaller by a factor of about n / WAKING.
WAKING = 200
MOST = 1e250  # capital that is kept: beyond it there is nothing to prove
_KEEP = np.array([1 - 1 / memory for memory in MEMORIES])


@dataclass
class Evidence:
    """The bettors of S statistics with B bins each; `add` changes the arrays in place.

    Args:
        gaps: (B,) of the reference, see `MonitorReference`.
        statistics: S.
    """

    gaps: Numbers
    statistics: int
    count: int = 0  # images
    seen: Numbers = field(init=False)  # (S, B) images
    recent: Numbers = field(init=False)  # (3, S, B) images that the memories hold, fading
    capital: Numbers = field(init=False)  # (4, S): of the sleeper, and by memory
    gain: Numbers = field(init=False)  # (S,) of the bettors since the image where it was lowest
    since: Numbers = field(init=False)  # (S,) number of that image, from 0 (before the first)

    def __post_init__(self) -> None:
        shape, bettors = (self.statistics, len(self.gaps)), len(MEMORIES)
        self.seen, self.recent = np.zeros(shape), np.zeros((bettors, *shape))
        self.capital = np.full((1 + bettors, self.statistics), 1 / (1 + bettors))
        self.gain, self.since = np.ones(self.statistics), np.zeros(self.statistics)
        self._rows = np.arange(self.statistics)
        self._total = self.gaps.sum()

    def add(self, bins: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Bet on the next image, then look at it.

        Args:
            bins: (S,) the bin of each statistic, from 0.

        Returns:
            Whether the gain of each statistic has fallen back to its lowest, (S,): then no change
            is under way.
        """
        rows, count, capital = self._rows, self.count, self.capital
        chance = (self.gaps[bins] + self.seen[rows, bins]) / (self._total + count)  # (S,)
        held = self.recent[:, rows, bins]  # (3, S)
        total = PRIOR + self.recent[:, 0].sum(1)  # (3,); the same for all statistics
        bets = (PRIOR * chance + held) / (total[:, None] * chance)
        flow = 1 / (count + WAKING)
        capital[1:] *= bets
        capital[1:] += capital[0] * (flow / len(MEMORIES))
        capital[0] *= 1 - flow
        self.gain *= bets.mean(0)
        np.minimum(capital, MOST, out=capital)
        np.minimum(self.gain, MOST, out=self.gain)
        self.recent *= _KEEP[:, None, None]
        self.recent[:, rows, bins] += 1
        self.seen[rows, bins] += 1
        self.count = count + 1
        low: npt.NDArray[np.bool_] = self.gain <= 1
        self.gain[low] = 1
        self.since[low] = self.count
        return low

    @property
    def of_each(self) -> Numbers:
        """Capital of each statistic now, (S,); it began with 1."""
        total: Numbers = self.capital.sum(0)
        return total

    @property
    def of_all(self) -> float:
        """The largest of these over their number: once it reaches 1 / rate, the world has moved."""
        return float(self.of_each.max()) / self.statistics
