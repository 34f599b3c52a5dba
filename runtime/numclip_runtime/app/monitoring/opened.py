"""Open a model together with what follows its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from numclip_runtime.app.monitoring.following import Following
from numclip_runtime.backends import OpenOptions
from numclip_runtime.predictor import Predictor

# Imported where they are used: most runs have no monitor
if TYPE_CHECKING:
    from numclip_runtime.app.monitoring.followed import Followed


def opened_for(model: Path, opening: OpenOptions, following: Following) -> Predictor:
    """Open a model; see `Predictor.open`. Predictions carry what a monitor needs, if there is one.

    Args:
        model: File.
        opening: How to open it.
        following: The options.
    """
    if not following.active:
        return Predictor.open(model, opening)
    from numclip_runtime.app.monitoring.observed import ObservedPredictor

    return ObservedPredictor.open(model, opening)


@contextmanager
def opened_and_followed(
    model: Path, opening: OpenOptions, following: Following, inputs: Sequence[str]
) -> Iterator[tuple[Predictor, Followed | None]]:
    """Open a model and what follows its run; files are written at the end, however the run ends.

    Args:
        model: File.
        opening: How to open it.
        following: The options.
        inputs: Of the run.

    Raises:
        ModelError: if a monitor has no reference to compare with; see `Predictor.open`.
        UsageError: if a file cannot be used.
    """
    with opened_for(model, opening, following) as predictor:
        if not following.active:
            yield predictor, None
            return
        from numclip_runtime.app.monitoring.followed import open_followed

        run = open_followed(predictor, model, following, every=following.every_of(inputs))
        with run.kept():
            yield predictor, run
