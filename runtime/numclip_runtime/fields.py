"""Checked reading of untrusted plain data: JSON, TOML, the content of checkpoints.

A dataclass states the type of each field; data that do not fit become one sentence, and nothing
deeper than its annotations is ever looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from numclip_runtime.errors import UsageError

_T = TypeVar("_T")

JSON_LIMIT = 1 << 20  # characters; metadata of 101 bins have 10,000
DIGITS_LIMIT = 40  # of a whole number; Python's own limit of 4,300 is an error of another kind
TEXT_LIMIT = 10_000  # characters of one text
ITEMS_LIMIT = 10_000  # of one list or table
SHOWN = 60  # characters of a wrong value that its error repeats


def read_fields(cls: type[_T], data: object, where: str, *, newer: bool = False) -> _T:
    """Build a dataclass from untrusted plain data.

    Whole numbers pass as floats, lists as tuples, and mappings as nested dataclasses. Numbers must
    be finite and texts valid Unicode; `True` is no number.

    Args:
        cls: A dataclass whose annotations are made of bool, int, float, str, None, Literal,
            tuple, Mapping with text keys, and other such dataclasses.
        data: As from JSON or TOML.
        where: Place of the data; errors begin with it.
        newer: Leave out unknown fields, which a newer numclip may have written, instead of refusing
            them.

    Raises:
        UsageError: if `data` is no mapping, a field is unknown, missing, of another type or beyond
            the limits, or `cls` itself refuses its value.
    """
    key: Any = cls  # to mypy, a `type[_T]` cannot be hashed
    kinds = _kinds(key)
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: must be a table of fields, got {shown(data)}.")
    problems = []
    if unknown := [] if newer else [name for name in data if name not in kinds]:
        names = ", ".join(map(shown, unknown[:5]))
        problems.append(f"unknown field(s) [{names}]; known are {sorted(kinds)}")
    if missing := [name for name in _without_default(key) if name not in data]:
        problems.append(f"missing field(s) {missing}")
    if problems:
        raise UsageError(f"{where}: {'; '.join(problems)}.")
    values = {
        name: read_value(kind, data[name], f"{where}: {name!r}")
        for name, kind in kinds.items()
        if name in data
    }
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def read_value(kind: Any, value: object, where: str) -> Any:
    """Return untrusted plain data as a value of a type; see `read_fields`.

    Raises:
        UsageError: if it is of another type or beyond the limits.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # X | None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else read_value(kind, value, where)
    if origin is Literal:
        text = _text(value, where)
        if text not in arguments:
            raise UsageError(f"{where} must be one of {', '.join(arguments)}, got {shown(value)}.")
        return text
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments[1], value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        return read_fields(kind, value, where)
    return _SCALARS[kind](value, where)


def parse_json(text: str) -> object:
    """Parse untrusted JSON text.

    Raises:
        ValueError: if it is no JSON, has a key twice in one object, or is beyond the limits; the
            message is the reason.
    """
    if len(text) > JSON_LIMIT:
        raise ValueError(f"longer than {JSON_LIMIT:,} characters")
    try:
        return json.loads(text, parse_int=_whole_number, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def shown(value: object) -> str:
    """Return an untrusted value for an error message: short, printable, never failing."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 64 else "a number of more than 64 bits"
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}..."
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "a table" if isinstance(value, Mapping) else f"a value of type {type(value).__name__}"


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


@cache
def _without_default(cls: Any) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    )


def _tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    kind = arguments[0]
    several = {float: "numbers", int: "whole numbers", str: "texts"}.get(kind, "values")
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where} must be a list of {several}, got {shown(value)}.")
    if len(value) > ITEMS_LIMIT:
        raise UsageError(f"{where} has {len(value):,} items, more than the limit of {ITEMS_LIMIT}.")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise UsageError(f"{where} must have {len(arguments)} {several}, got {len(value)}.")
    return tuple(
        read_value(kind, item, f"{where} item {number}") for number, item in enumerate(value, 1)
    )


def _mapping(kind: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a table, got {shown(value)}.")
    if len(value) > ITEMS_LIMIT:
        raise UsageError(f"{where} has {len(value):,} items, more than the limit of {ITEMS_LIMIT}.")
    return {
        _text(key, f"{where}: a name"): read_value(kind, item, f"{where}, {shown(key)}")
        for key, item in value.items()
    }


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where} must be text, got {shown(value)}.")
    if len(value) > TEXT_LIMIT:
        raise UsageError(
            f"{where} has {len(value):,} characters, more than the limit of {TEXT_LIMIT}."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} is not valid Unicode text, got {shown(value)}.") from None
    return str(value)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{where} must be a number, got {shown(value)}.")
    try:
        number = float(value)
    except OverflowError:  # a whole number above 1.8e308
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"{where} must be finite, got {shown(value)}.")
    return number


def _integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > 63:
        raise UsageError(f"{where} must be a whole number of 64 bits, got {shown(value)}.")
    return int(value)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where} must be true or false, got {shown(value)}.")
    return value


_SCALARS: dict[Any, Any] = {str: _text, float: _number, int: _integer, bool: _flag}


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS_LIMIT:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found
