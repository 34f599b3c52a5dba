"""Open a model together with what follows its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.backends import OpenOptions
from numclip_runtime.predictor import Predictor

# Imported where they are used: most runs have no monitor
if TYPE_CHECKING:
    from numclip_runtime.app.monitoring.run_monitor import RunMonitor


def open_for_monitor(model: Path, opening: OpenOptions, monitoring: MonitorOptions) -> Predictor:
    """Open a model; see `Predictor.open`. Predictions carry what a monitor needs, if there is one.

    Args:
        model: File.
        opening: How to open it.
        monitoring: The options of the monitor.
    """
    if not monitoring.active:
        return Predictor.open(model, opening)
    from numclip_runtime.app.monitoring.observed import ObservedPredictor

    return ObservedPredictor.open(model, opening)


@contextmanager
def open_with_monitor(
    model: Path, opening: OpenOptions, monitoring: MonitorOptions, inputs: Sequence[str]
) -> Iterator[tuple[Predictor, RunMonitor | None]]:
    """Open a model and what follows its run; files are written at the end, however the run ends.

    Args:
        model: File.
        opening: How to open it.
        monitoring: The options of the monitor.
        inputs: Of the run.

    Raises:
        ModelError: if a monitor has no reference to compare with; see `Predictor.open`.
        UsageError: if a file cannot be used.
    """
    with open_for_monitor(model, opening, monitoring) as predictor:
        if not monitoring.active:
            yield predictor, None
            return
        from numclip_runtime.app.monitoring.run_monitor import open_run_monitor

        run = open_run_monitor(predictor, model, monitoring, every=monitoring.every_of(inputs))
        with run.kept():
            yield predictor, run
