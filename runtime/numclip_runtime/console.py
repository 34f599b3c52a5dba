"""Conventions of all numclip commands: exit codes, options, and text that is safe on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from numclip_runtime.errors import NumclipError

FILE = click.Path(path_type=Path)  # type of every option that names a file or folder
# Context settings of every command
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn numclip's own and the system's errors into one line on stderr and exit code 2.

    Ctrl-C exits with 130.
    """
    try:
        yield
    except NumclipError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        raise  # `numclip-run ... | head`: click exits quietly
    except OSError as error:  # disk full, no permission to look into a folder
        reason = error.strerror or str(error)
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {place}{reason}.", err=True)
        _discard_stdout()
        sys.exit(2)
    except KeyboardInterrupt:  # before the first image, or pressed twice; click would exit with 1
        click.echo("Interrupted.", err=True)
        sys.exit(130)


def _discard_stdout() -> None:
    """If stdout has failed, keep Python from failing again at exit (exit code 120)."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def visible(text: object) -> str:
    """Return a text for a terminal or page: line breaks, control and bidi characters as escapes.

    A file's name may contain any of them, and a row of a table is one line.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def columns(rows: Sequence[Sequence[str]], align: str = "") -> Iterator[str]:
    """Yield the lines of a table with aligned columns, two spaces apart.

    Args:
        rows: Cells as text; all rows have as many.
        align: A character per column, "<" left or ">" right; columns beyond it are left-aligned.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), "<")
    for row in rows:
        cells = (f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, widths, strict=True))
        yield "  ".join(cells).rstrip()
