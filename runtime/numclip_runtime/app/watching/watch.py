"""`numclip-run --watch`: a record for each picture that comes into a folder, until a signal."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from numclip_runtime.app.engines.resuming import job_summary, open_job, read_model
from numclip_runtime.app.interrupt import Interrupt
from numclip_runtime.app.monitoring.monitored_opening import open_with_monitor
from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.watching.folder_watch import FolderWatch
from numclip_runtime.console import say
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.jobs.parts import Parts
from numclip_runtime.model_files.names import model_path
from numclip_runtime.predictor import Prediction, Predictor
from numclip_runtime.results.prediction import finite
from numclip_runtime.results.records import record_of

if TYPE_CHECKING:
    from numclip_runtime.app.monitoring.run_monitor import RunMonitor

LOOK_SHARE = 0.2  # of the time that looks may take: a folder of a million files takes a second


def watch(model: Path, folder: Path, options: RunOptions) -> int:
    """Predict each picture in a folder once, those that are there and those that come.

    Args:
        model: Model file.
        folder: To watch, with the folders in it.
        options: Flags, with a folder of parts as output.

    Returns:
        Exit code: 130, 143 or 129, of the signal that ended it; finished records are kept.

    Raises:
        NumclipError: wrong use, bad model, missing package.
        OSError: if an output cannot be written; records written before are kept.
    """
    options.check()
    name, model = model, model_path(model)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; --watch needs one that is there at the start.")
    job = read_model(name, model, options)
    opening = replace(job.opening, optimize_for="throughput")
    with (
        Interrupt() as interrupt,
        open_with_monitor(job.path, opening, options.monitoring, ()) as (predictor, monitor),
    ):
        backend = predictor.backend
        for note in backend.notes:
            say(f"Note: {note}")
        with open_job(job, options, (), f"{backend.name} on {backend.device}") as parts:
            if options.talkative:
                say(f"Watching {folder}; Ctrl-C or SIGTERM ends it, and the same command goes on.")
            with interrupt.ends_block():
                _Watch(predictor, folder, options, interrupt, parts, monitor).run()
            with interrupt.ends_block(), interrupt.held():
                parts.flush()
        came = interrupt.came
        assert came is not None  # only a signal ends it
        say(f"{came.word}. {job_summary(parts, options)}")
        return came.exit_code


class _Watch:
    def __init__(
        self,
        predictor: Predictor,
        folder: Path,
        options: RunOptions,
        interrupt: Interrupt,
        parts: Parts,
        monitor: RunMonitor | None,
    ) -> None:
        self.predictor, self.options, self.interrupt = predictor, options, interrupt
        self.parts, self.monitor = parts, monitor
        self.folder = FolderWatch(os.fspath(folder), parts.has, poll_s=options.poll_s)
        self.gone: list[str] = []

    def run(self) -> None:
        while True:
            started = time.monotonic()
            ready = self.folder.look()
            took_s = time.monotonic() - started
            if ready:
                self._predict(ready)
            with self.interrupt.held():
                self.parts.flush_if_due()
                if self.monitor is not None:
                    self.monitor.save_if_due()
            if not ready:
                time.sleep(max(self.options.poll_s, took_s / LOOK_SHARE))

    def _predict(self, paths: list[str]) -> None:
        options = self.options
        stream = self.predictor.stream(
            paths, batch_size=options.batch_size, workers=options.workers
        )
        self.gone.clear()
        with closing(stream):
            for path, result in zip(paths, stream, strict=True):
                with self.interrupt.held():
                    self._take(path, result)
        if self.gone:
            more = f" and {len(self.gone) - 1} more" if self.gone[1:] else ""
            say(f"Note: {self.gone[0]}{more}: deleted before it was read; no record.")

    def _take(self, path: str, result: Prediction | ImageError) -> None:
        if isinstance(result, Prediction):
            result = finite(path, result)  # a number that is not is no matter of trying again
            if isinstance(result, Prediction) and self.monitor is not None:
                self.monitor.take(result)
        elif self.folder.is_gone(path):
            self.folder.drop(path)
            self.gone.append(path)
            return
        elif not self.folder.failed(path):
            return
        self.parts.write(record_of(path, result))
        self.folder.drop(path)
