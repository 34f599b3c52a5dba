"""Commands whose help has examples and groups of options, and a command of commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import cleandoc
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from numclip_runtime.console import Command, visible
from numclip_runtime.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
# How other tools call a command: words that are not near enough to be guessed
OTHER_WORDS = {"predict": "run", "infer": "run", "fit": "train", "test": "eval", "val": "eval"}
_GROUPS: dict[click.Parameter, str] = {}  # headings of options; those without are "Options"


def add(*options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def group(title: str, *options: Decorator) -> Decorator:
    """Return a decorator that adds options under a heading of `GroupedCommand`'s help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        before = list(getattr(command, "__click_params__", ()))
        command = add(*options)(command)
        for param in getattr(command, "__click_params__", ()):
            if param not in before:
                _GROUPS[param] = title
        return command

    return decorate


class GroupedCommand(Command):
    """A command whose help has examples before the options, and these under headings, see `group`.

    Args:
        examples: What follows the command's name, as people type it.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first paragraph, the examples, and the other paragraphs."""
        first, _, rest = cleandoc(self.help or "").partition("\n\n")
        self._write_text(formatter, first)
        with formatter.section("Examples"):
            for example in self.examples:
                line = f"{ctx.command_path} {example}".rstrip()
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        if rest:
            self._write_text(formatter, rest)

    @staticmethod
    def _write_text(formatter: click.HelpFormatter, text: str) -> None:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        records: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                records.setdefault(_GROUPS.get(param, "Options"), []).append(record)
        for title, rows in records.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Output(click.Path):
    """A file to write; or a folder, which exists or is named with a slash at its end.

    Args:
        name: Of the file in such a folder; or what returns it.
        suffixes: What its name must end in; none: anything.
    """

    def __init__(
        self, name: str | Callable[[click.Context], str], suffixes: Sequence[str] = ()
    ) -> None:
        super().__init__(path_type=Path)
        self._in_folder, self._suffixes = name, suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the file.

        Raises:
            UsageError: if its name ends otherwise.
        """
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not (str(value).endswith(("/", os.sep)) or path.is_dir()):
            if self._suffixes and path.suffix.lower() not in self._suffixes:
                raise UsageError(f"{path}: the name must end in {' or '.join(self._suffixes)}.")
            return path
        name = self._in_folder
        assert ctx is not None
        return path / (name if isinstance(name, str) else name(ctx))


@dataclass(frozen=True)
class Entry:
    """A command of `CommandOfCommands`, which is imported when it is called."""

    place: str  # "module:command"
    line: str  # for the list of all commands
    find: Callable[[], object] = lambda: None  # called before the import, and may refuse it

    def load(self) -> click.Command:
        """Import the command."""
        self.find()
        module, _, name = self.place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


class CommandOfCommands(GroupedCommand, click.Group):
    """A command whose first word chooses another one; alone it prints its help.

    Args:
        entries: By that word, in the order of the help.
    """

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **extra: Any) -> None:
        super().__init__(*args, invoke_without_command=True, **extra)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the words."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = self.entries.get(cmd_name)
        return None if entry is None else entry.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names.

        Raises:
            UsageError: with the command that was meant, if it names none.
        """
        if args[0] not in self.entries and not args[0].startswith("-"):
            ctx.fail(visible(f"{args[0]!r} is not a command{self._meant(ctx, args)}."))
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context, args: list[str]) -> str:
        from difflib import get_close_matches

        word, path = args[0], PurePath(args[0])
        if path.suffix or len(path.parts) > 1:  # a file
            return f"; the command comes first: `{ctx.command_path} run {' '.join(args[:3])}`"
        similar = get_close_matches(word, self.entries, 1) or [OTHER_WORDS.get(word, "")]
        return f"; similar is {similar[0]}" if similar[0] else ""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, without importing them, and then the options."""
        with formatter.section("Commands"):
            formatter.write_dl([(word, entry.line) for word, entry in self.entries.items()])
        super().format_options(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the words that begin like this, without importing their commands."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(word, help=entry.line)
            for word, entry in self.entries.items()
            if word.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
