"""`--config run.toml`: a file that holds options of a command, and the one that repeats a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from numclip_runtime import UsageError, __version__
from numclip_runtime.console import FILE, visible

# Options of one call, not of a run: a file that repeats it does not hold them.
OF_ONE_CALL = ("config", "resume", "restart", "help", "version")
NAMES_OR_FILES = ("task", "backbone", "pretrained", "student")
JOINED = ("bin_edges", "phrases")  # texts with commas on the command line, lists in a file


def _apply(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make a file's options the defaults of this call."""
    if path is not None:
        from numclip.tasks import read_toml  # needs tomli on Python 3.10

        content = read_toml(str(path), "run file")
        context.default_map = dict(_options(path, content, context.command.params))
    return path


CONFIG_OPTION = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    callback=_apply,
    help="TOML file with options of this command, such as the run.toml that each run writes; "
    "the command line wins.",
)


def _options(
    path: Path, content: Mapping[str, Any], params: Sequence[click.Parameter]
) -> Iterator[tuple[str, Any]]:
    """Yield click's name and value of each option in a file."""
    known = {key: param for param in params for key in _keys(param)}
    for key, value in content.items():
        param = known.get(key.replace("_", "-"))
        if param is None or param.name in OF_ONE_CALL:
            similar = get_close_matches(key, known, 1, 0.5)
            hint = f"; similar is {similar[0]!r}" if similar else ""
            raise UsageError(f"{visible(path)}: there is no option {visible(key)!r}{hint}.")
        assert param.name is not None
        yield param.name, _value(param, value, f"{visible(path)}: the option {key!r}")


def _keys(param: click.Parameter) -> list[str]:
    """Return the option's names in a file: "lr-image" of --lr-image."""
    return [name[2:] for name in param.opts if name.startswith("--")]


def _value(param: click.Parameter, value: Any, where: str) -> Any:
    """Return a value as typed on the command line; flags are true or false.

    Raises:
        UsageError: if its kind is not the option's.
    """
    flag, several = getattr(param, "is_flag", False), param.multiple
    if flag or isinstance(value, bool):
        if not (flag and isinstance(value, bool)):
            raise UsageError(f"{where} is {'' if flag else 'not '}one of those for true or false.")
        return value
    if isinstance(value, list) and (several or param.name in JOINED):
        texts = [_text(one, where) for one in value]
        return texts if several else ",".join(texts)
    return [_text(value, where)] if several else _text(value, where)


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(f"{where} must be one text or number, got {visible(str(value)[:60])}.")
    return str(value)


def run_file(
    params: Sequence[click.Parameter], values: Mapping[str, Any], command: str = "numclip-train"
) -> str:
    """Return the text of a file that repeats a run from any folder.

    Args:
        params: The command's.
        values: The options' values by click's name, those of the recipe included.
        command: Theirs.
    """
    lines = [f"# Repeats this run: {command} --config THIS_FILE (numclip {__version__})"]
    for param in params:
        value = values.get(param.name or "")
        if param.name in OF_ONE_CALL or value is None or value == ():
            continue
        if value is False and not param.secondary_opts:
            continue
        if isinstance(value, Path) or (param.name in NAMES_OR_FILES and _is_file(value)):
            value = str(Path(value).absolute())
        line = f"{_keys(param)[0]} = {_toml(value)}"
        lines.append(line if _is_text(line) else f"# {line}  # its name is no text")
    return "\n".join((*lines, "")).encode("utf-8", "backslashreplace").decode()


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_file(name: str) -> bool:
    return bool(Path(name).suffix) and Path(name).is_file()  # "age" is a preset, whatever lies here


def _toml(value: Any) -> str:
    """Return a value in TOML's notation."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)  # JSON has no infinity
    # TOML's strings have JSON's escapes, and may not hold DEL itself
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
