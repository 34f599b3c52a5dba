"""Whether images in a row resemble each other, as the frames of a video do."""

from __future__ import annotations

import numpy as np

from numclip_runtime.monitor.reference import Numbers

WINDOW = 32  # images; within one, a change of the world is no resemblance
LEAST_WINDOWS = 4


class Resemblance:
    """The correlation of each image with the one before, within windows of 32 images.

    Args:
        statistics: S.
    """

    def __init__(self, statistics: int) -> None:
        self.windows = 0
        self.sums = np.zeros(statistics)  # of the correlations of the windows
        self._window = np.zeros((WINDOW, statistics))
        self._filled = 0

    def add(self, shares: Numbers) -> None:
        """Take in an image: for each statistic, the share of the reference below it, (S,)."""
        self._window[self._filled] = shares
        self._filled += 1
        if self._filled == WINDOW:
            centred = self._window - self._window.mean(0)
            total = (centred**2).sum(0)
            together = (centred[1:] * centred[:-1]).sum(0)
            # independent numbers have -1 / WINDOW in the mean, since the mean is of the window
            self.sums += np.where(total > 0, together / np.maximum(total, 1e-12), 0.0) + 1 / WINDOW
            self.windows += 1
            self._filled = 0

    @property
    def correlation(self) -> float:
        """The largest of the statistics' mean correlations; 0 before there are 4 windows."""
        return float(self.sums.max()) / self.windows if self.windows >= LEAST_WINDOWS else 0.0
