"""Protobuf's text format, as far as Triton's configs use it: written and read without protobuf."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

Message = dict[str, list[Any]]  # field -> its values: int, text, `Word`, or a message


class Word(str):
    """A value without quotes: that of an enum, true, or false."""

    __slots__ = ()


def written(message: Message, indent: str = "") -> str:
    """Return a message in protobuf's text format."""
    lines = []
    for name, values in message.items():
        if len(values) > 1 and not isinstance(values[0], dict):
            lines.append(f"{indent}{name}: [{', '.join(map(_scalar, values))}]")
            continue
        for value in values:
            if isinstance(value, dict):
                inside = written(value, indent + "  ")
                lines.append(
                    f"{indent}{name} {{\n{inside}{indent}}}" if inside else f"{indent}{name} {{}}"
                )
            else:
                lines.append(f"{indent}{name}: {_scalar(value)}")
    return "".join(f"{line}\n" for line in lines)


def _scalar(value: Any) -> str:
    if isinstance(value, (int, Word)):
        return str(value)
    # Octal escapes are in every version of the format, and no comment or line end hides in them
    return '"' + "".join(_escaped(byte) for byte in str(value).encode()) + '"'


def _escaped(byte: int) -> str:
    if not 32 <= byte < 127:
        return f"\\{byte:03o}"
    return f"\\{byte:c}" if byte in b'"\\' else chr(byte)


_TOKEN = re.compile(
    r'\s+|#[^\n]*|(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<word>[A-Za-z_][\w.]*)'
    r"|(?P<number>-?\d+)|(?P<mark>[{}\[\]:,;])"
)
_ESCAPE = re.compile(rb'\\([0-7]{1,3}|["\'\\nrt])')
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def parsed(text: str) -> Message:
    """Read a message in protobuf's text format, as far as configs use it.

    Raises:
        ValueError: with the reason.
    """
    tokens = list(_tokens(text))
    message, end = _message(tokens, 0)
    if end < len(tokens):
        raise ValueError("closes a brace that was not opened")
    return message


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            line = text.count("\n", 0, place) + 1
            raise ValueError(f"line {line} holds {text[place : place + 20]!r}")
        if found.lastgroup is not None:
            yield found.lastgroup, found[0]
        place = found.end()
    yield "end", ""


def _message(tokens: Sequence[tuple[str, str]], place: int) -> tuple[Message, int]:
    message: Message = {}
    while True:
        kind, text = tokens[place]
        if kind == "mark" and text in ",;":
            place += 1
            continue
        if kind != "word":
            return message, place + 1 if text in ("}", "") else _fail(text)
        values = message.setdefault(text, [])
        place += 1
        if tokens[place][1] == ":":
            place += 1
        if tokens[place][1] != "[":
            value, place = _value(tokens, place)
            values.append(value)
            continue
        place += 1
        while tokens[place][1] != "]":
            if tokens[place][1] == ",":
                place += 1
                continue
            value, place = _value(tokens, place)
            values.append(value)
        place += 1


def _value(tokens: Sequence[tuple[str, str]], place: int) -> tuple[Any, int]:
    kind, text = tokens[place]
    if text == "{":
        return _message(tokens, place + 1)
    if kind == "text":
        return _ESCAPE.sub(_unescaped, text[1:-1].encode()).decode(), place + 1
    if kind == "number":
        return int(text), place + 1
    return (Word(text), place + 1) if kind == "word" else _fail(text)


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes((int(code, 8) & 255,)) if code.isdigit() else _LETTERS.get(code, code)


def _fail(text: str) -> Any:
    raise ValueError(f"{text!r} where a value or a field is expected" if text else "ends early")
