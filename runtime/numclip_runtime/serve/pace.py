"""How fast a line of pictures moves, measured while it does."""

from __future__ import annotations

from numclip_runtime.pipeline import StreamPlan

WEIGHT = 0.05  # of the newest measurement in the moving averages: they follow within 20


class Pace:
    """Moving averages of what a picture takes, and the images per second that follow from them.

    A picture that cannot be decoded is not counted: it would make the line seem faster.

    Args:
        plan: Threads and batches of the line.
    """

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self.decode_s: float | None = None  # of one picture, preprocessing included
        self.run_s: float | None = None  # of the network, per image

    def decoded(self, seconds: float) -> None:
        """Note how long one picture took to become an input."""
        self.decode_s = _followed(self.decode_s, seconds)

    def ran(self, seconds: float, images: int) -> None:
        """Note how long the network took for so many images."""
        self.run_s = _followed(self.run_s, seconds / images)

    def forget(self) -> None:
        """Begin anew: the first runs are slow."""
        self.decode_s = self.run_s = None

    @property
    def service_s(self) -> float:
        """Seconds of work on one picture; 0 before the first."""
        return (self.decode_s or 0.0) + (self.run_s or 0.0)

    @property
    def rate(self) -> float:
        """Images per second that the line manages; infinite before the first."""
        decode_s, run_s = self.decode_s or 0.0, self.run_s or 0.0
        # a worker that also runs the network does one after the other
        alone = decode_s + run_s if self._plan.whole else decode_s
        least = max(alone / self._plan.workers, run_s / self._plan.lanes)
        return 1 / least if least > 0 else float("inf")


def _followed(before: float | None, now: float) -> float:
    return now if before is None else before + WEIGHT * (now - before)
