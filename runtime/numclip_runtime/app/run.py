"""What `numclip-run` does: inputs in, one record each out, in order, whatever happens."""

from __future__ import annotations

import io
import math
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import click

from numclip_runtime.app.annotate import Annotator
from numclip_runtime.app.fast_decode_error import Sample, decode_drift
from numclip_runtime.app.gallery import ReportEntry, ReportWriter
from numclip_runtime.app.inputs import Inputs, Item, open_inputs
from numclip_runtime.app.interrupt import Interrupt
from numclip_runtime.app.parquet import ParquetWriter
from numclip_runtime.app.progress import Progress, summary
from numclip_runtime.app.records import Record, RecordWriter, place_of, record_of
from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.video import is_live
from numclip_runtime.backends import OpenOptions
from numclip_runtime.errors import ImageError, NumclipError, UsageError
from numclip_runtime.files import WholeWrites, atomic_path, naming
from numclip_runtime.pipeline import StreamPlan, plan_stream
from numclip_runtime.predictor import Prediction, Predictor
from numclip_runtime.preprocess import ImageLike

Result: TypeAlias = Prediction | ImageError


class _Writer(Protocol):
    def write(self, record: Record) -> None: ...


def run(model: Path, inputs: Sequence[str], options: RunOptions) -> int:
    """Predict all inputs and write one record each.

    Returns:
        Exit code: 0 all read, 1 some failed, 130 interrupted (what was done is kept).

    Raises:
        NumclipError: wrong use, bad model, missing package.
        OSError: if an output cannot be written; records written before are kept, as after Ctrl-C.
    """
    options.check()
    source = open_inputs(inputs, every=options.every, null=options.null)
    # One at a time: a single picture, or a camera's newest
    single = source.total == 1 or any(map(is_live, inputs))
    opening = OpenOptions(
        threads=options.threads,
        device=options.device,
        backend=options.backend,
        sha256=options.sha256,
        require_gpu=options.require_gpu,
        fast_decode=options.fast_decode,
        optimize_for="latency" if single else "throughput",
    )
    with (
        Interrupt() as interrupt,
        closing(source),
        Predictor.open(model, opening) as predictor,
    ):
        backend = predictor.backend
        if options.talkative:
            plan = plan_stream(backend, options.batch_size, options.workers)
            click.echo(chosen(predictor, plan), err=True)
        said = list(backend.notes)
        _print_notes(said)
        code = _Run(predictor, source, options, interrupt).run(title=model.name)
        _print_notes(backend.notes[len(said) :])
        return code


def chosen(predictor: Predictor, plan: StreamPlan) -> str:
    """Return one line that says what runs the model, and how."""
    backend = predictor.backend
    runs = f"{_count(plan.lanes, 'inference')} at a time"
    if backend.device == "cpu":
        runs += f" of {_count(backend.threads, 'thread') if backend.threads else 'all cores'}"
    return (
        f"{backend.name}: {backend.provider} on {backend.device}, {predictor.metadata.precision}, "
        f"batch {plan.batch_size}, {runs}, {_count(plan.workers, 'worker')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)


class _Run:
    def __init__(
        self, predictor: Predictor, source: Inputs, options: RunOptions, interrupt: Interrupt
    ) -> None:
        self.predictor = predictor
        self.source = source
        self.options = options
        self.interrupt = interrupt
        # What the drift of fast decoding is measured on
        self.sample = Sample(predictor.metadata.preprocessing) if options.fast_decode else None
        self.task = predictor.metadata.task
        self.done = self.failed = 0
        self.report: ReportWriter | None = None
        self.failure: OSError | NumclipError | None = None  # what stopped the run half-way
        self.seconds = 0.0  # from the first image asked for to the last one written

    def run(self, title: str) -> int:
        path = self.options.report
        if path is None:
            return self._conclude(self._write_records())
        with ReportWriter(path, title=title, task=self.task) as self.report:
            interrupted = self._write_records()
            try:
                if not isinstance(self.failure, OSError):  # a full disk takes no report either
                    self._write_report(self.report, title)
            except KeyboardInterrupt:
                interrupted = True
                click.echo(f"{path}: interrupted, no report was written.", err=True)
        return self._conclude(interrupted)

    def _write_records(self) -> bool:
        """Write what comes; return whether Ctrl-C ended it."""
        options, interrupted = self.options, False
        annotator = None if options.annotate is None else Annotator(options.annotate, self.task)
        with ExitStack() as outputs:
            start_writing = outputs.enter_context(_open_writer(options, self.predictor))
            bursts: Iterable[Iterator[Item]] = ()
            try:
                bursts = self._started()
            except KeyboardInterrupt:
                interrupted = True
            writer = start_writing()
            try:
                with (
                    Progress(_progress_file(options.output), self.source.total) as progress,
                    closing(self._results(bursts)) as results,
                ):
                    for item, result in results:
                        with self.interrupt.held():
                            self._take(item, result, writer, annotator)
                            progress.update(self.done)
                            self.seconds = progress.seconds
            except KeyboardInterrupt:
                interrupted = True
            except (OSError, NumclipError) as error:
                if self.done == 0:
                    raise
                self.failure = error
            try:
                with self.interrupt.held():
                    outputs.close()
            except KeyboardInterrupt:  # came while closing, which is done
                interrupted = True
        if self.sample is not None and not interrupted and self.failure is None:
            try:
                drift = decode_drift(
                    self.predictor, self.sample.paths, workers=self.options.workers or 1
                )
                _print_notes([str(drift)] if drift.compared else [])
            except KeyboardInterrupt:
                interrupted = True
        if options.talkative and self.done:
            click.echo(summary(self.done, self.seconds), err=True)
        return interrupted

    def _started(self) -> Iterator[Iterator[Item]]:
        """Wait for the first item, so that an empty list is no empty output."""
        first = next(self.source.bursts, None)
        if first is None:
            raise UsageError("-: no path came in on standard input.")
        return chain([first], self.source.bursts)

    def _results(
        self, bursts: Iterable[Iterator[Item]]
    ) -> Generator[tuple[Item, Result], None, None]:
        for burst in bursts:
            yield from results_of(self.predictor, burst, self.options)

    def _take(
        self, item: Item, result: Result, writer: _Writer, annotator: Annotator | None
    ) -> None:
        if isinstance(result, Prediction) and not math.isfinite(result.value):
            # as of float16 that overflowed; JSON has no word for it
            result = ImageError(f"{item.path}: the model gives no number, but {result.value}.")
        record = record_of(item.path, result, frame=item.frame, time_s=item.time_s)
        writer.write(record)
        self.done += 1
        if isinstance(result, ImageError):
            self.failed += 1
            if self.report is not None:
                self.report.add(ReportEntry(place_of(record), str(result)))
            return
        if self.sample is not None and item.image is None:
            self.sample.offer(item.path)
        if annotator is not None:
            with suppress(ImageError):  # removed or damaged since it was read
                annotator.write(item.name, item.image or item.path, result)
        if self.report is not None:
            self.report.add(ReportEntry(place_of(record), result, image=item.image))

    def _write_report(self, report: ReportWriter, title: str) -> None:
        metadata = self.predictor.metadata
        report.write(
            (("Model", title), ("Precision", metadata.precision), ("Images", str(self.done)))
        )

    def _conclude(self, interrupted: bool) -> int:
        of_all = "" if self.source.total is None else f" of {self.source.total}"
        if self.failure is not None:
            if self.options.output is not None:
                click.echo(f"Stopped: {self.done}{of_all} images done and kept.", err=True)
            raise self.failure
        if interrupted:
            click.echo(f"Interrupted: {self.done}{of_all} images done and kept.", err=True)
            return 130
        if self.failed:
            click.echo(f"{self.failed} of {self.done} images failed.", err=True)
        return 1 if self.failed else 0


def results_of(
    predictor: Predictor, items: Iterable[Item], options: RunOptions
) -> Generator[tuple[Item, Result], None, None]:
    """Yield each item with its prediction, or with the error that it met, in order."""
    waiting: deque[Item] = deque()

    def pictures() -> Iterator[ImageLike]:
        for item in items:
            waiting.append(item)
            if item.error is None:
                yield item.path if item.image is None else item.image

    def without_picture() -> Iterator[tuple[Item, Result]]:
        while waiting and (error := waiting[0].error) is not None:
            yield waiting.popleft(), error

    with closing(
        predictor.stream(pictures(), batch_size=options.batch_size, workers=options.workers)
    ) as results:
        for result in results:
            yield from without_picture()
            yield waiting.popleft(), result
    yield from without_picture()


@contextmanager
def _open_writer(options: RunOptions, predictor: Predictor) -> Iterator[Callable[[], _Writer]]:
    """Open the output at once; what is given starts to write into it when called."""
    path, kind, intervals = options.output, options.kind, predictor.calibrated
    with ExitStack() as stack:
        if path is None:
            if isinstance(sys.stdout, io.TextIOWrapper):  # for a path that it cannot encode
                sys.stdout.reconfigure(errors="backslashreplace")
            yield lambda: stack.enter_context(RecordWriter(kind, sys.stdout, intervals=intervals))
        elif kind == "parquet":
            stack.enter_context(naming(path))
            binary = stack.enter_context(stack.enter_context(atomic_path(path)).open("wb"))
            yield lambda: stack.enter_context(ParquetWriter(binary, predictor.metadata.task))
        else:
            stack.enter_context(naming(path))
            raw = stack.enter_context(
                stack.enter_context(atomic_path(path)).open("wb", buffering=0)
            )
            whole = WholeWrites(raw, path)
            yield lambda: stack.enter_context(RecordWriter(kind, whole, intervals=intervals))


def _progress_file(output: Path | None) -> IO[str] | None:
    """Return stderr if it is a terminal that shows nothing else."""
    own = output is not None or not sys.stdout.isatty()
    return sys.stderr if own and sys.stderr.isatty() else None
