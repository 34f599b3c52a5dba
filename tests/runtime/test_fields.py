"""Untrusted plain data: a value of the stated type, or one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from numclip_runtime import UsageError
from numclip_runtime.fields import ITEMS_LIMIT, JSON_LIMIT, parse_json, read_fields, shown


@dataclass(frozen=True)
class Inner:
    side: int
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.side < 1:
            raise UsageError("side must be at least 1.")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["a", "b"] = "a"
    numbers: tuple[float, ...] = ()
    pair: tuple[float, float] = (0.0, 0.0)
    names: Mapping[str, str] = field(default_factory=dict)
    maybe: Inner | None = None
    flag: bool = False


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_values_become_the_types_of_the_annotations() -> None:
    data = {
        "inner": {"side": 3, "ratio": 2},
        "numbers": [1, 2.5],
        "maybe": None,
        "names": {"x": "y"},
    }
    found = read_fields(Outer, data, "here")
    assert found == Outer(Inner(3, 2.0), numbers=(1.0, 2.5), names={"x": "y"})
    assert [type(number) for number in (*found.numbers, found.inner.ratio)] == [float] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": 7}, "'inner': must be a table of fields, got 7"),
        ({"inner": {}}, r"'inner': missing field\(s\) \['side'\]"),
        ({"inner": {"side": 0}}, "'inner': side must be at least 1"),
        ({"inner": {"side": 2.0}}, "'inner': 'side' must be a whole number of 64 bits, got 2.0"),
        ({"inner": {"side": 2**64}}, "'side' must be a whole number of 64 bits, got a number of"),
        ({"inner": {"side": Odd()}}, "'side' must be .*, got a value of type Odd"),
        ({"inner": {"side": 1, "ratio": False}}, "'ratio' must be a number, got False"),
        ({"inner": {"side": 1, "ratio": 10**400}}, "'ratio' must be finite, got a number of"),
        ({"inner": {"side": 1, "ratio": float("nan")}}, "'ratio' must be finite, got nan"),
        ({"kind": "c"}, "'kind' must be one of a, b, got 'c'"),
        ({"kind": None}, "'kind' must be text, got None"),
        ({"numbers": "12"}, "'numbers' must be a list of numbers, got '12'"),
        ({"numbers": {"a": 1}}, "'numbers' must be a list of numbers, got a table"),
        ({"numbers": [0.0] * (ITEMS_LIMIT + 1)}, "'numbers' has 10,001 items, more than"),
        ({"pair": [1]}, "'pair' must have 2 numbers, got 1"),
        ({"names": {1: "x"}}, "'names': a name must be text, got 1"),
        ({"names": {"x": ["y"]}}, "'names', 'x' must be text, got a list of 1"),
        ({"names": {f"{i}": "" for i in range(10_001)}}, "'names' has 10,001 items, more than"),
        ({"flag": 0}, "'flag' must be true or false, got 0"),
        ({"x\x1b[2J": 0}, r"unknown field\(s\) \['x\\x1b\[2J'\]; known are \['flag', "),
        ({3: 0}, r"unknown field\(s\) \[3\]"),
    ],
)
def test_anything_else_is_one_sentence(changes: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"^here: .*{message}.*\.$") as error:
        read_fields(Outer, {"inner": {"side": 1}} | changes, "here")
    assert len(str(error.value)) < 250
    assert str(error.value).isprintable()


def test_unknown_fields_of_a_newer_version_can_be_left_out() -> None:
    assert read_fields(Inner, {"side": 1, "new": 2}, "here", newer=True) == Inner(1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("1" * 5_000, "a number of 5000 digits"),
        ("-" + "1" * 50, "a number of 51 digits"),
        ('{"a": 1, "a": 2}', "a name stands twice"),
        (" " * (JSON_LIMIT + 1), "longer than 1,048,576 characters"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_json_beyond_the_limits(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        parse_json(text)


def test_json_within_the_limits() -> None:
    data = {"a": [1, -2.5, 10**39, None, True, {"b": "\u2603"}]}
    assert parse_json(json.dumps(data)) == data


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 100, f"'{'x' * 60}'..."),
        ("a\n\x1b\ud800", r"'a\n\x1b\ud800'"),
        pytest.param(10**5000, "a number of more than 64 bits", id="digits"),
        (-(10**9), "-1000000000"),
        (float("inf"), "inf"),
        ([[[]]], "a list of 1"),
        ({"a": 1}, "a table"),
        (Odd(), "a value of type Odd"),
        (b"bytes", "a value of type bytes"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text
