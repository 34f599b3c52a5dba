"""`numclip-run`: read numbers off images with an exported model."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, get_args

import click

from numclip_runtime import __version__
from numclip_runtime.errors import NumclipError, UsageError
from numclip_runtime.files import atomic_text, find_images
from numclip_runtime.output import Format, RecordWriter, record_of
from numclip_runtime.predictor import load

_BY_SUFFIX: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}


@contextmanager
def errors_as_exit_code_2() -> Iterator[None]:
    """Turn numclip's own and the system's errors into one line on stderr and exit code 2."""
    try:
        yield
    except NumclipError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        raise  # `numclip-run ... | head`: click exits quietly
    except OSError as error:  # disk full, no permission to look into a folder
        click.echo(f"Error: {error}.", err=True)
        sys.exit(2)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write records to this file.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(get_args(Format)),
    help="Default: by the suffix of --output, else table on a terminal and jsonl in a pipe.",
)
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads inside one inference.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Decoding threads."
)
@click.version_option(__version__)
def main(
    model: Path,
    images: tuple[str, ...],
    output: Path | None,
    kind: Format | None,
    batch_size: int,
    threads: int | None,
    workers: int,
) -> None:
    """Read a number off each of IMAGES (files, folders, glob patterns) with MODEL.

    Exit codes: 0 all read, 1 some images failed, 2 wrong use or bad model.
    """
    with errors_as_exit_code_2():
        failed = run(
            model,
            images,
            output=output,
            kind=kind or default_format(output),
            batch_size=batch_size,
            threads=threads,
            workers=workers,
        )
    sys.exit(1 if failed else 0)


def default_format(output: Path | None) -> Format:
    """Choose a format by the output's suffix, else by where stdout goes."""
    if output is not None:
        if output.suffix not in _BY_SUFFIX:
            raise UsageError(
                f"{output}: cannot tell the format from this name; use .json, .jsonl or .csv, "
                "or give --format."
            )
        return _BY_SUFFIX[output.suffix]
    return "table" if sys.stdout.isatty() else "jsonl"


def run(
    model: Path,
    images: tuple[str, ...],
    *,
    output: Path | None,
    kind: Format,
    batch_size: int = 1,
    threads: int | None = None,
    workers: int = 1,
) -> int:
    """Predict all images and write one record each; return how many failed."""
    paths = find_images(images)
    failed = done = 0
    with (
        load(model, threads=threads) as predictor,
        _open_output(output) as file,
        RecordWriter(kind, file, intervals=predictor.calibrated) as writer,
        click.progressbar(
            length=len(paths),
            label="images",
            # not `hidden=`, which click 8.1 lacks
            file=sys.stderr if output and sys.stderr.isatty() else io.StringIO(),
        ) as bar,
    ):
        results = predictor.stream(paths, batch_size=batch_size, workers=workers)
        try:
            for path, result in zip(paths, results, strict=True):
                record = record_of(path, result)
                writer.write(record)
                done += 1
                failed += "error" in record
                bar.update(1)
        except KeyboardInterrupt:
            click.echo(f"Interrupted: {done} of {len(paths)} images done and kept.", err=True)
            failed += len(paths) - done
    if failed and done == len(paths):
        click.echo(f"{failed} of {len(paths)} images failed.", err=True)
    return failed


@contextmanager
def _open_output(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what stdout cannot encode
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
    else:
        with atomic_text(output) as file:
            yield file
