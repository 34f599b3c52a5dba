"""Conventions of all numclip commands: exit codes, options, and text that is safe on a terminal."""

from __future__ import annotations

import atexit
import io
import json
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from numclip_runtime import signals
from numclip_runtime.errors import GpuError, NumclipError, causes, lacks_memory
from numclip_runtime.posix import STOP_SIGNALS
from numclip_runtime.signals import Stopped as Stopped
from numclip_runtime.signals import stop_signals as stop_signals

FILE = click.Path(path_type=Path)  # type of every option that names a file or folder
WIDTH = 80  # characters that every table fits into, unless the terminal has more
# Context settings of every command
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
EXIT_CODES = tuple(128 + signum for signum in STOP_SIGNALS)
# Given back where memory runs out: for the sentence that says so, and for Python's work at exit
_RESERVED_BYTES = 4 << 20  # address space only: nothing is written there


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn numclip's own and the system's errors into one line on stderr and exit code 2.

    Pillow's warnings about odd pictures, which no number depends on, are not shown.

    Ctrl-C, SIGTERM and SIGHUP raise `Stopped` inside, and exit with 130, 143 and 129. Where memory
    or threads do not suffice, that is said, also with exit code 2.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows lacks most characters
            stream.reconfigure(errors="backslashreplace")
    with stop_signals():
        atexit.unregister(_end_at_once)
        try:
            reserve: bytearray | None = bytearray(_RESERVED_BYTES)
            yield
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, BrokenPipeError):
                raise  # `numclip-run ... | head`: click exits quietly
            stopped = signals.stop_requests()[0] is not None
            if isinstance(error, SystemExit) and (not stopped or error.code in EXIT_CODES):
                raise  # any other is of a library that has seen the signal, such as Lightning
            reserve = None  # noqa: F841
            code, sentence = _ending(error)
            if sentence is None:
                raise
            say(sentence, lines=error.lines if isinstance(error, NumclipError) else ())
            _leave(code)
        finally:
            atexit.register(_end_at_once)  # the last one is called first


def _end_at_once() -> None:
    """Let Ctrl-C end the process while Python takes itself apart, which would print a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command(click.Command):
    """A command that ends as `exit_on_error` says, also while it reads its options or prints help.

    Its messages about wrong options are as safe on a terminal as all others.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the options."""
        try:
            with _stopping():
                return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as error:  # a pattern may have found "--\x1b[2J.png"
            error.message = visible(error.message)  # type: ignore[misc]
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _stopping():
            return super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command, and exit."""
        _reserve_streams()
        with exit_on_error(), signals.signals_held():
            return super().main(*args, **extra)


@contextmanager
def _stopping() -> Iterator[None]:
    """Let signals through click, which would print "Aborted!" at a KeyboardInterrupt."""
    try:
        with signals.signals_released():
            yield
    except KeyboardInterrupt as error:
        # `exit_on_error` knows our signal, and says so
        raise SystemExit(1 if isinstance(error, Stopped) else 130) from error


def entry_point(module: str) -> Callable[..., Any]:
    """Return what a console script calls to run the command `main` of a module.

    The module is imported where signals, a lack of memory and a refused thread end as in the
    command itself. The arguments are those of `click.Command.main`.
    """

    def main(*args: Any, **extra: Any) -> Any:
        with exit_on_error():
            return import_module(module).main.main(*args, **extra)

    return main


def _reserve_streams() -> None:
    """Give the numbers of closed standard streams to the null device.

    Otherwise the next file that is opened gets them, and what a library prints to stderr goes into
    that file. Python's own `sys.stdin` and `sys.stdout` stay None: commands that need them say so.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (as Python's own)


def _ending(error: BaseException) -> tuple[int, str | None]:
    """Return exit code and sentence for an exception; no sentence if it is a fault of numclip."""
    signals.ignore_child_deaths()
    signum, _ = signals.stop_requests()
    if isinstance(error, KeyboardInterrupt) or signum is not None:
        # an import that a signal breaks off may end in any other error
        stopped = error if isinstance(error, Stopped) else Stopped(signum or signal.SIGINT)
        note = f": {error}" if isinstance(error, KeyboardInterrupt) and str(error) else ""
        return stopped.exit_code, f"{stopped.word}{note}."
    # These say more than "not enough memory"
    precise = isinstance(error, GpuError) or (
        isinstance(error, NumclipError) and "not enough memory" in str(error)
    )
    if not precise and any(map(lacks_memory, causes(error))):  # whatever it became on its way up
        return 2, "Error: not enough memory."
    if isinstance(error, NumclipError):
        return 2, f"Error: {error}"
    if isinstance(error, OSError):  # disk full, no permission to look into a folder
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return 2, f"Error: {place}{error.strerror or error}."
    if "start new thread" in str(error):
        return 2, "Error: the system refuses another thread (ulimit -u, or the container's limit)."
    return 2, None


def say(sentence: str, *, lines: Sequence[str] = ()) -> None:
    """Print a sentence to stderr as one safe line, unless stderr is closed or full.

    Args:
        sentence: May hold names of files and other foreign text.
        lines: The lines of a sentence that is meant to have several.
    """
    shown = [visible(sentence)]
    if lines and sentence.endswith(text := "\n".join(lines)):
        first, *rest = lines
        shown = [visible(sentence.removesuffix(text) + first), *map(visible, rest)]
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            click.echo("\n".join(shown), err=True)


def show(text: str) -> None:
    """Print text for people to stdout; names and phrases in it may hold any character."""
    click.echo("\n".join(map(visible, text.split("\n"))))


def _leave(code: int) -> NoReturn:
    _discard_stdout()
    if signals.stop_requests()[1] > 1:  # asked twice: threads still at work are not waited for
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _discard_stdout() -> None:
    """If stdout has failed, keep Python from failing again at exit (exit code 120)."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def visible(text: object) -> str:
    """Return a text for a terminal or page: line breaks, control and bidi characters as escapes.

    A file's name may contain any of them, and a row of a table is one line.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def plain(value: Any) -> Any:
    """Return the value after a trip through JSON: lists for tuples, None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: object, *, encoding: str | None = "utf-8", indent: int | None = None) -> str:
    """Return a value as JSON that is valid in a text of this encoding.

    In UTF-8, characters stand as they are: the other encodings lack some of them, and get escapes.

    Args:
        value: Plain data.
        encoding: Of the text, as Python names it; None is ASCII.
        indent: See `json.dumps`.

    Raises:
        ValueError: if a number in it is NaN or infinite, which JSON lacks; see `plain`.
    """
    return json.dumps(value, ensure_ascii=not is_utf8(encoding), allow_nan=False, indent=indent)


def is_utf8(encoding: str | None) -> bool:
    """Return whether this is the name of UTF-8, which has every character."""
    return (encoding or "").lower().replace("_", "-") in ("utf-8", "utf8")


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


def folded(rows: Sequence[Sequence[str]], align: str = "", *, keep: int = 1) -> Iterator[str]:
    """Yield the lines of a table like `columns`, in several parts where the terminal is too narrow.

    Args:
        rows: See `columns`.
        align: See `columns`.
        keep: Columns at the left that every part begins with.
    """
    room = max(WIDTH, shutil.get_terminal_size().columns)
    widths = [max(map(len, cells)) + 2 for cells in zip(*rows, strict=True)]
    first, parts = list(range(keep)), [list(range(keep))]
    for column in range(keep, len(widths)):
        if len(parts[-1]) > keep and sum(widths[i] for i in (*parts[-1], column)) - 2 > room:
            parts.append(list(first))
        parts[-1].append(column)
    sides = align.ljust(len(widths), "<")
    for number, part in enumerate(parts):
        if number:
            yield ""
        yield from columns(
            [[row[i] for i in part] for row in rows], "".join(sides[i] for i in part)
        )


def cut(text: str, length: int) -> str:
    """Return a text of at most this many characters, on one line that is safe on a terminal."""
    shown = visible(text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"
