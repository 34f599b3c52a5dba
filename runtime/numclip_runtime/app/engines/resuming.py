"""`--resume`: the folder of a run, and the pictures that are still to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from numclip_runtime import __version__
from numclip_runtime.app.inputs import Item
from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.video import Every
from numclip_runtime.console import say
from numclip_runtime.jobs.job_model import JobModel
from numclip_runtime.jobs.manifest import Manifest
from numclip_runtime.jobs.parts import Parts, check_folder, open_parts


def manifest_of(model: JobModel, options: RunOptions, runs_on: str = "") -> Manifest:
    """Return the manifest of a run, and refuse the folder of another kind of run.

    Args:
        model: Its model.
        options: Its flags, with a folder as output.
        runs_on: The backend and its device, for people; "": not known yet.

    Raises:
        UsageError: see `check_folder`.
    """
    manifest = Manifest(
        model=model.path.name,
        sha256=model.sha256,
        task=model.metadata.task.name,
        format=options.part_format,
        every=None if options.every in (None, Every()) else str(options.every),
        fast_decode=options.opening.fast_decode,
        csv_safe=options.csv_safe,
        bf16=model.opening.bf16 is True,
        backend=runs_on,
        numclip=__version__,
    )
    check_folder(options.folder, manifest)
    return manifest


def read_model(name: Path, path: Path, options: RunOptions) -> JobModel:
    """Read a run's model, and refuse the folder of another kind of run.

    Args:
        name: Of the model, as given.
        path: Where it is.
        options: Of the run.

    Raises:
        NumclipError: see `JobModel.read`.
        UsageError: see `check_folder`.
    """
    model = JobModel.read(name, options.opening, path)
    for note in model.notes:
        say(f"Note: {note}")
    manifest_of(model, options)
    return model


@contextmanager
def open_job(
    model: JobModel, options: RunOptions, files: Sequence[str], runs_on: str
) -> Iterator[Parts]:
    """Begin the folder of a run, or go on with it; see `open_parts`.

    Args:
        model: Of the run.
        options: Its flags.
        files: Its images and videos that are known beforehand.
        runs_on: See `manifest_of`.
    """
    manifest = manifest_of(model, options, runs_on)
    task, again = model.metadata.task, options.retry_failed
    with open_parts(options.folder, manifest, task, retry_failed=again) as parts:
        if parts.before:
            _say_beginning(parts, options, files, runs_on)
        yield parts


def _say_beginning(parts: Parts, options: RunOptions, files: Sequence[str], runs_on: str) -> None:
    begun = parts.begun.backend
    if begun and begun != runs_on:
        say(
            f"Note: {options.folder} was begun by {begun}, and goes on with {runs_on}; the last "
            "digits of the numbers may differ."
        )
    if files and not options.retry_failed and not any(map(parts.has, files)):
        say(
            f"Note: none of these pictures is among the {parts.before} of {options.folder}; a path "
            "counts as it is written, so go on in the same folder and with the same paths, unless "
            "they are new."
        )


def still_to_do(parts: Parts, ready: Iterable[Iterable[Item]]) -> Iterator[Iterator[Item]]:
    """Yield the groups of items without the pictures that have a record, or come again."""
    for items in ready:
        yield (item for item in items if parts.take(item.path, item.frame))
        parts.flush_if_due()


def job_summary(parts: Parts, options: RunOptions) -> str:
    """Return what a run has done, in a sentence."""
    again = f" ({parts.failed_before} failed before)" if options.retry_failed else ""
    way_out = "; --retry-failed tries them again" if parts.failed else ""
    return (
        f"{options.folder}: {parts.before} images done before{again}, {parts.now} now; "
        f"{parts.failed} of {parts.done} failed{way_out}."
    )
