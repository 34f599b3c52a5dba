"""The monitor of a server: what its pictures are like, on `/metrics` and in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.console import say
from numclip_runtime.errors import NumclipError, import_extra
from numclip_runtime.monitor.monitor import Monitor
from numclip_runtime.monitor.monitor_file import MonitoredModel, MonitorFile, model_in
from numclip_runtime.monitor.reference import MonitorReference
from numclip_runtime.results.prediction import Prediction
from numclip_runtime.serve.predict_line import PredictLine


class ServerMonitor:
    """Follows the pictures that one model is given; threads may share it.

    Args:
        model: The model.
        reference: That its pictures are compared with.
        file: Keeps the state, and is gone on with; None: the state ends with the server. That of
            another model gets another name, which is said, and a new one begins.
        every: See `Monitor`.

    Raises:
        UsageError: if the file is of another kind, or its pictures were compared with another
            reference or counted otherwise.
    """

    def __init__(
        self, model: MonitoredModel, reference: MonitorReference, file: Path | None, every: int
    ) -> None:
        self._file, self._failed = None, False
        if file is None:
            self.monitor = Monitor(reference, every=every)
            return
        _set_aside(file, model)
        self._file = MonitorFile(file, model, reference, every=every)
        self.monitor = self._file.monitor

    def take(self, prediction: Prediction) -> None:
        """Take in one picture; say so if the world has moved."""
        if self.monitor.add(prediction):
            say(f"Note: {self.monitor.verdict().sentence}.")

    def save(self) -> None:
        """Write the file, if there is one; a failure is said once, and does not end the server."""
        if self._file is None:
            return
        try:
            self._file.save()
            self._failed = False
        except (OSError, NumclipError) as error:
            if not self._failed:
                say(f"Note: {self._file.path} is not written ({error}); the server goes on.")
            self._failed = True

    def save_if_due(self) -> None:
        """Write the file if it is some seconds old, and pictures came since."""
        if self._file is not None and self._file.is_due:
            self.save()

    def conclude(self) -> None:
        """Write the file for the last time, and say the verdict."""
        if self._file is not None:
            self.save()
            say(f"Monitor: {self.monitor.verdict().sentence}.")


def monitor_of(line: PredictLine, options: MonitorOptions) -> ServerMonitor | None:
    """Return the monitor of a model; None: there is to be none.

    Raises:
        UsageError: see `ServerMonitor`.
    """
    if line.reference is None:
        return None
    model = MonitoredModel(line.name, line.digest)
    return ServerMonitor(model, line.reference, options.monitor, options.every or 1)


def _set_aside(file: Path, model: MonitoredModel) -> None:
    before = model_in(file)
    if before is None or before.sha256 == model.sha256:
        return
    kept, own = (
        file.with_name(f"{file.stem}.{one.sha256[:12]}{file.suffix}") for one in (before, model)
    )
    with suppress(OSError):  # the next one to open it says why
        os.replace(file, kept)  # noqa: PTH105
        say(f"Note: {file} followed the model before, {before.name}; it is {kept.name} now.")
        if own.exists():  # a model that comes back goes on with its own
            os.replace(own, file)  # noqa: PTH105


class MonitorCollector:
    """Shows a monitor to Prometheus, as it is when the page is read.

    Args:
        current: Returns the monitor of the model that answers; None: it has none.
    """

    def __init__(self, current: Callable[[], ServerMonitor | None]) -> None:
        self._current = current
        self._gauge = import_extra("serve", "prometheus_client.core").GaugeMetricFamily

    def collect(self) -> Iterator[Any]:
        """Yield the numbers."""
        if (found := self._current()) is None:
            return
        verdict = found.monitor.verdict()
        for name, text, value in (
            ("images", "Pictures that counted.", verdict.counted),
            ("moved", "1 once the pictures are found to have changed.", verdict.moved),
            ("p_value", "Chance of so much evidence if nothing has changed.", verdict.p_value),
            (
                "expected_unfamiliar_ratio",
                "Largest expected share of unfamiliar pictures if nothing has changed.",
                verdict.expected_unfamiliar,
            ),
            ("resemblance", "Correlation of pictures in a row.", verdict.resemblance),
        ):
            yield self._gauge(f"numclip_monitor_{name}", text, value=float(value))
        unfamiliar = self._gauge(
            "numclip_monitor_unfamiliar_ratio",
            "Share of pictures beyond all those of the reference, of all and of the last 128.",
            labels=["window"],
        )
        unfamiliar.add_metric(["all"], verdict.unfamiliar)
        unfamiliar.add_metric(["recent"], verdict.recent_unfamiliar)
        yield unfamiliar
        distance = self._gauge(
            "numclip_monitor_distance",
            "Kolmogorov-Smirnov distance to the reference, of all and of the last 128.",
            labels=["statistic", "window"],
        )
        mean = self._gauge(
            "numclip_monitor_mean",
            "Mean of a statistic, of the reference and of the last 128.",
            labels=["statistic", "window"],
        )
        for name, now in verdict.statistics.items():
            distance.add_metric([name, "all"], now.distance)
            distance.add_metric([name, "recent"], now.recent_distance)
            mean.add_metric([name, "reference"], now.reference_mean)
            mean.add_metric([name, "recent"], now.recent_mean)
        yield distance
        yield mean
