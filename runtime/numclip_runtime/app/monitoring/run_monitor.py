"""The monitor of a run, and the reference that a run writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.console import say
from numclip_runtime.errors import UsageError
from numclip_runtime.monitor.monitor_file import (
    MonitoredModel,
    MonitorFile,
    reference_for,
    write_reference,
)
from numclip_runtime.monitor.reference import LEAST_IMAGES, reference_of
from numclip_runtime.monitor.statistics import STATISTICS, output_statistics
from numclip_runtime.predictor import Prediction, Predictor
from numclip_runtime.signals import signals_held

MOST_ROWS = 10_000  # images of a reference, chosen by chance among more


class RunMonitor:
    """What a run tells its monitor, its reference, or both.

    Args:
        model: That runs.
        file: Of --monitor.
        reference: File of --write-reference.
        every: Images of which one counts.
    """

    def __init__(
        self, model: MonitoredModel, file: MonitorFile | None, reference: Path | None, *, every: int
    ) -> None:
        self._model, self._file, self._reference = model, file, reference
        self._every, self._rng = every, random.Random(0)
        self._rows: list[tuple[float, ...]] = []
        self._seen = 0

    def take(self, prediction: Prediction) -> None:
        """Take in the prediction of one image; say so if the world has moved.

        Raises:
            OSError: if the file of the monitor cannot be written.
        """
        if self._file is not None:
            if self._file.monitor.add(prediction):
                say(f"Note: {self._file.monitor.verdict().sentence}.")
                self._file.save()
            self._file.save_if_due()
        if self._reference is not None:
            self._keep(prediction)

    def _keep(self, prediction: Prediction) -> None:
        self._seen += 1
        if self._seen % self._every:
            return
        assert prediction.input_statistics is not None
        row = (*output_statistics(prediction), *prediction.input_statistics)
        if len(self._rows) < MOST_ROWS:
            self._rows.append(row)
        elif (place := self._rng.randrange(self._seen // self._every)) < MOST_ROWS:
            self._rows[place] = row

    def save_if_due(self) -> None:
        """Write the file of the monitor if it is some seconds old, and images came since."""
        if self._file is not None:
            self._file.save_if_due()

    def save(self) -> None:
        """Write the file of the monitor."""
        if self._file is not None:
            self._file.save()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write the files at the end of a block; after an exception, that of the monitor."""
        try:
            yield
        except BaseException:
            with signals_held():
                self.save()
            raise
        with signals_held():
            self.finish()

    def finish(self) -> None:
        """Write the files, and say the verdict.

        Raises:
            UsageError: if there were too few images for a reference.
            OSError: if a file cannot be written.
        """
        self.save()
        if self._file is not None:
            say(f"Monitor: {self._file.monitor.verdict().sentence}.")
        if self._reference is not None:
            found = reference_of(np.array(self._rows), STATISTICS) if self._rows else None
            if found is None:
                raise UsageError(
                    f"{self._reference}: not written, a reference needs {LEAST_IMAGES} images at "
                    f"least, and {len(self._rows)} counted."
                )
            write_reference(self._reference, self._model, found)


def open_run_monitor(
    predictor: Predictor, path: Path, monitoring: MonitorOptions, *, every: int
) -> RunMonitor:
    """Open the monitor of a run; see `open_with_monitor`."""
    model, file = MonitoredModel(predictor.name, predictor.sha256), None
    if monitoring.monitor is not None:
        found = reference_for(
            model, predictor.metadata.reference, monitoring.reference, needed=True
        )
        assert found is not None
        file = MonitorFile(monitoring.monitor, model, found, every=every)
    return RunMonitor(model, file, monitoring.written, every=every)
