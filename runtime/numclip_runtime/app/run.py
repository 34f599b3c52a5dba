"""`numclip-run` behind its flags: inputs in, one record each out, in order, in any event."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from numclip_runtime.app.inputs import LIST, Inputs, Item, open_inputs
from numclip_runtime.app.interrupt import Interrupt
from numclip_runtime.app.monitoring.monitored_opening import open_with_monitor
from numclip_runtime.app.progress import Progress, chosen, progress_file, summary
from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.video import is_live
from numclip_runtime.console import say
from numclip_runtime.errors import ImageError, NumclipError, UsageError
from numclip_runtime.images.folder import say_left_out
from numclip_runtime.model_files.names import model_path, short_name
from numclip_runtime.pipeline import plan_stream
from numclip_runtime.predictor import Prediction, Predictor
from numclip_runtime.preprocess import ImageLike, load_rgb
from numclip_runtime.results.prediction import finite
from numclip_runtime.results.records import Writer, open_writer, place_of, record_of
from numclip_runtime.signals import Stopped

# Imported where they are used: most runs need none of them, and they take 20 ms
if TYPE_CHECKING:
    from numclip_runtime.app.annotate import Annotator
    from numclip_runtime.app.fast_decode_error import ScaledSample
    from numclip_runtime.app.gallery import ReportWriter
    from numclip_runtime.app.monitoring.run_monitor import RunMonitor
    from numclip_runtime.jobs.job_model import JobModel
    from numclip_runtime.jobs.parts import Parts


def run(model: Path, inputs: Sequence[str], options: RunOptions) -> int:
    """Predict all inputs and write one record each.

    Returns:
        Exit code: 0 all read, 1 some failed, 130, 143 or 129 stopped by a signal (finished records
        are kept).

    Raises:
        NumclipError: wrong use, bad model, missing package.
        OSError: if an output cannot be written; records written before are kept, as after Ctrl-C.
        StoreError: if a store cannot be read or written, or no longer; records are kept as well.
    """
    if (output := options.remote) is not None:
        output.check()
        with output.through_file() as file:
            return run(model, inputs, replace(options, output=file, remote=None))
    options.check()
    live = any(map(is_live, inputs))
    if live and options.has_parts:
        raise UsageError("a camera has no list of pictures to go on with; leave --resume out.")
    name, model = model, model_path(model)
    again = options.report or options.annotate or options.opening.fast_decode
    source = open_inputs(inputs, every=options.every, null=options.null, keep=bool(again))
    options.check_overwriting(model, source.files, listed=LIST in inputs)
    say_left_out(source.left_out)
    # One at a time: a single picture, or a camera's newest
    single = live or (source.total == 1 and not options.has_parts)
    opening = replace(options.opening, optimize_for="latency" if single else "throughput")
    job: JobModel | None = None
    if options.has_parts:
        from numclip_runtime.app.engines.resuming import read_model

        job = read_model(name, model, options)
        if options.engine == "ray":
            from numclip_runtime.app.engines.ray_run import run_on_ray

            return run_on_ray(job, source, options)
        model, opening = job.path, replace(job.opening, optimize_for=opening.optimize_for)
    with (
        Interrupt() as interrupt,
        closing(source),
        open_with_monitor(model, opening, options.monitoring, inputs) as (predictor, monitor),
    ):
        backend = predictor.backend
        if options.talkative:
            plan = plan_stream(backend, options.batch_size, options.workers)
            if predictor.choice is not None:
                say(predictor.choice)
            say(chosen(predictor, plan))
        printed = list(backend.notes)
        _print_notes(printed)
        begun = _Run(predictor, source, options, interrupt, job, monitor)
        code = begun.run(title=short_name(model))
        _print_notes(backend.notes[len(printed) :])
        return code


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        say(f"Note: {note}")


class _Run:
    def __init__(
        self,
        predictor: Predictor,
        source: Inputs,
        options: RunOptions,
        interrupt: Interrupt,
        job: JobModel | None,
        monitor: RunMonitor | None,
    ) -> None:
        self.predictor, self.monitor = predictor, monitor
        self.source = source
        self.options = options
        self.interrupt = interrupt
        self.task = predictor.metadata.task
        self.sample: ScaledSample | None = None  # images that --fast-decode is measured on
        if predictor.fast_decode:
            from numclip_runtime.app.fast_decode_error import ScaledSample

            self.sample = ScaledSample(predictor.metadata.preprocessing)
        self.done = self.failed = 0
        self.job = job
        self.parts: Parts | None = None  # the output, with --resume
        self.report: ReportWriter | None = None
        self.annotator: Annotator | None = None
        self.failure: OSError | NumclipError | MemoryError | None = (
            None  # it stopped the run half-way
        )

    def run(self, title: str) -> int:
        path = self.options.report
        if path is None:
            self._write_records()
            return self._conclude()
        from numclip_runtime.app.gallery import ReportWriter

        with ReportWriter(path, title=title, task=self.task) as self.report:
            self._write_records()
            if not isinstance(self.failure, (OSError, MemoryError)):  # no room for a report either
                with self.interrupt.ends_block(f"{path}: interrupted, no report was written."):
                    precision = self.predictor.backend.precision
                    rows = (("Model", title), ("Precision", precision), ("Images", str(self.done)))
                    self.report.write(rows)
        return self._conclude()

    def _write_records(self) -> None:
        """Write a record for each item, until the end, a Ctrl-C, or a failure."""
        options, seconds = self.options, 0.0
        if options.annotate is not None:
            from numclip_runtime.app.annotate import Annotator

            self.annotator = Annotator(options.annotate, self.task)
        with ExitStack() as outputs:
            writer = outputs.enter_context(self._output())
            if self.job is not None:
                from numclip_runtime.jobs.parts import Parts

                assert isinstance(writer, Parts)
                self.parts = writer
            try:
                with self.interrupt.ends_block():
                    ready = self._started()
                    with (
                        Progress(progress_file(options.output), self.source.total) as progress,
                        closing(self._results(ready)) as results,
                    ):
                        for item, result in results:
                            with self.interrupt.held():
                                self._take(item, result, writer)
                                progress.update(self.done, self._before())
                                seconds = progress.seconds
            except (OSError, NumclipError, MemoryError) as error:
                if self.done == 0:
                    raise
                self.failure = error
            came, old = self.interrupt.came, options.output
            if came is not None and self.done == 0 and old is not None and old.exists():
                raise Stopped(came.signum, f"no image was done, and {old} is as it was")
            with self.interrupt.ends_block(), self.interrupt.held():
                outputs.close()
        if self.annotator is not None:
            _print_notes(self.annotator.notes)
        if self.sample is not None and self.failure is None and self.interrupt.came is None:
            from numclip_runtime.app.fast_decode_error import measure_deviation

            with self.interrupt.ends_block():
                deviation = measure_deviation(
                    self.predictor, self.sample.paths, workers=options.workers or 1
                )
                _print_notes([str(deviation)] if deviation.compared else [])
        if options.talkative and self.done:
            say(summary(self.done, seconds))

    def _output(self) -> AbstractContextManager[Writer | Parts]:
        options = self.options
        if self.job is None:
            return open_writer(
                options.output,
                options.kind,
                self.task,
                intervals=self.predictor.calibrated,
                csv_safe=options.csv_safe,
            )
        from numclip_runtime.app.engines.resuming import open_job

        backend = self.predictor.backend
        runs_on = f"{backend.name} on {'cpu' if backend.device == 'cpu' else 'gpu'}"
        return open_job(self.job, options, self.source.files, runs_on)

    def _before(self) -> int:
        """Pictures of this run that earlier ones did."""
        return 0 if self.parts is None else self.parts.skipped

    def _started(self) -> Iterator[Iterator[Item]]:
        """Wait for the first item, so that an empty list does not become an empty output."""
        first = next(self.source.ready, None)
        if first is None:
            raise UsageError("-: no path came in on standard input.")
        return chain([first], self.source.ready)

    def _results(
        self, ready: Iterable[Iterable[Item]]
    ) -> Generator[tuple[Item, Prediction | ImageError], None, None]:
        """Yield each item with its prediction, or its error, in order."""
        options = self.options
        # Of the stream. Not itertools.tee: it would keep up to 57 frames that were written already
        taken: deque[Item] = deque()
        if self.parts is not None:
            from numclip_runtime.app.engines.resuming import still_to_do

            ready = still_to_do(self.parts, ready)

        def pictures(items: Iterable[Item]) -> Iterator[ImageLike | ImageError]:
            for item in items:
                taken.append(item)
                yield item.picture

        for items in ready:
            stream = self.predictor.stream(
                pictures(self.source.fetched(items)),
                batch_size=options.batch_size,
                workers=options.workers,
            )
            with closing(stream):
                for result in stream:
                    yield taken.popleft(), result

    def _take(self, item: Item, result: Prediction | ImageError, writer: Writer | Parts) -> None:
        result = finite(item.path, result)
        record = record_of(item.path, result, frame=item.frame, time_s=item.time_s)
        writer.write(record)
        self.done += 1
        shown: Prediction | str
        if isinstance(result, ImageError):
            self.failed += 1
            shown = str(result)
        else:
            shown = result
            if self.monitor is not None:
                self.monitor.take(result)
            if self.sample is not None and item.image is None:
                self.sample.offer(item.path if item.fetched is None else item.fetched.read())
            if self.annotator is not None:
                self.annotator.write(item.name, item.source, result)
        if self.report is not None:
            from numclip_runtime.app.gallery import ReportEntry

            image = item.image
            if item.fetched is not None and isinstance(result, Prediction):
                image = load_rgb(item.fetched)
            self.report.add(ReportEntry(place_of(record), shown, image=image))

    def _conclude(self) -> int:
        of_all = "" if self.source.total is None else f" of {self.source.total}"
        kept = f"{self._before() + self.done}{of_all} images done and kept."
        if self.failure is not None:
            if self.options.output is not None:
                say(f"Stopped: {kept}")
            raise self.failure
        if self.interrupt.came is not None:
            say(f"{self.interrupt.came.word}: {kept}")
            return self.interrupt.came.exit_code
        if self.parts is not None:
            from numclip_runtime.app.engines.resuming import job_summary

            say(job_summary(self.parts, self.options))
            return 1 if self.parts.failed else 0
        if self.failed:
            say(f"{self.failed} of {self.done} images failed.")
        return 1 if self.failed else 0
