"""The options of a monitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.app.video import is_live, is_video
from numclip_runtime.errors import UsageError
from numclip_runtime.files import require_writable

# Of a video or camera one frame in so many counts, if the user does not say: some seconds
FRAMES_APART = 100


@dataclass(frozen=True)
class MonitorOptions:
    """What a run compares its images with, and what it writes about them."""

    monitor: Path | None = None  # file with the state and the verdict
    every: int | None = None  # images of which one counts; None: 1, of frames `FRAMES_APART`
    reference: Path | None = None  # file to compare with; None: the model's own reference
    written: Path | None = None  # file for a reference of this run's images

    @property
    def active(self) -> bool:
        """Whether the run has to note how the network's inputs look."""
        return self.monitor is not None or self.written is not None

    @property
    def outputs(self) -> dict[str, Path | None]:
        """The files that are written, by their options."""
        return {"--monitor": self.monitor, "--write-reference": self.written}

    def check(self) -> None:
        """Refuse at once what would fail at the end.

        Raises:
            UsageError: if a file cannot be written, or an option has no use.
        """
        for path in filter(None, self.outputs.values()):
            require_writable(path)
        if self.every is not None and not self.active:
            raise UsageError("--monitor-every is for --monitor or --write-reference; add one.")
        if self.reference is not None and self.monitor is None:
            raise UsageError("--monitor-reference is for --monitor; add --monitor FILE.")

    def every_of(self, inputs: Sequence[str]) -> int:
        """Return of how many images one counts."""
        frames = any(is_live(item) or is_video(item) for item in inputs)
        return self.every or (FRAMES_APART if frames else 1)


NO_MONITOR = MonitorOptions()
