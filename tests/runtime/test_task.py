"""Tasks: strict about what they accept, exact about which bin a label is in."""

from __future__ import annotations

from typing import Any

import pytest

from numclip_runtime import Task, UsageError

AGE: dict[str, Any] = {
    "name": "age",
    "unit": "years",
    "bin_edges": [0, 13, 19, 35, 65, 101],
    "phrases": ["child", "teen", "young adult", "adult", "senior"],
}


def test_from_dict_fills_defaults() -> None:
    task = Task.from_dict(AGE)
    assert task.bin_edges == (0.0, 13.0, 19.0, 35.0, 65.0, 101.0)
    assert (task.num_bins, task.label_range) == (5, 101.0)
    assert (task.context, task.label_offset) == ("a photo of", 0.0)
    assert task.prediction == "regressor"


def test_dict_round_trip() -> None:
    task = Task.from_dict(
        AGE | {"context": "portrait of", "label_offset": -3, "prediction": "class"}
    )
    assert Task.from_dict(task.to_dict()) == task
    assert task.to_dict()["phrases"] == AGE["phrases"]


def test_bin_of_golden() -> None:
    labels = [-1, 0, 12, 12.5, 13, 18, 19, 34, 34.5, 35, 64, 65, 100]
    expected = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert [Task.from_dict(AGE).bin_of(label) for label in labels] == expected


@pytest.mark.parametrize("label", [101, 500, float("inf")])
def test_bin_of_above_the_range_is_the_last_bin(label: float) -> None:
    assert Task.from_dict(AGE).bin_of(label) == 4


@pytest.mark.parametrize(
    ("label", "inside"), [(-0.1, False), (0, True), (50, True), (101, True), (101.1, False)]
)
def test_contains_is_closed_at_both_ends(label: float, inside: bool) -> None:
    assert Task.from_dict(AGE).contains(label) is inside


def test_label_offset_shifts_labels_not_edges() -> None:
    task = Task.from_dict(AGE | {"label_offset": 1})  # files say 1 more than the model
    assert [task.bin_of(label) for label in (13, 13.9, 14, 20)] == [0, 0, 1, 2]
    assert [task.contains(label) for label in (0.5, 1, 102, 102.5)] == [False, True, True, False]


def test_bin_values_are_centres_or_the_one_whole_number_of_a_bin() -> None:
    assert Task.from_dict(AGE | {"label_offset": 1}).bin_values == (6.5, 16, 27, 50, 83)
    count = AGE | {"bin_edges": [0, 1, 2, 6, 6.5, 7.5]}
    assert Task.from_dict(count).bin_values == (0, 1, 4, 6.25, 7)  # 6.5 to 7.5 holds no edge
    assert not Task.from_dict(count).labels_are_classes


def test_the_upper_end_is_no_class_where_labels_are_classes() -> None:
    task = Task.from_dict(AGE | {"bin_edges": [0, 1, 2, 3, 4, 5], "label_offset": 1})
    assert task.labels_are_classes
    assert task.bin_values == (0, 1, 2, 3, 4)
    assert [task.contains(label) for label in (0, 1, 5, 6)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, r"unknown field\(s\) \['colour'\]; known are \['bin_edges'"),
        ({"name": 3}, "'name' must be text, got 3"),
        ({"unit": None}, "'unit' must be text, got None"),
        ({"context": ["a"]}, "'context' must be text"),
        ({"phrases": "child"}, "'phrases' must be a list of texts, got 'child'"),
        ({"phrases": ["child", 2]}, "'phrases' item 2 must be text, got 2"),
        ({"bin_edges": 7}, "'bin_edges' must be a list of numbers, got 7"),
        ({"bin_edges": [0, "13"]}, "'bin_edges' item 2 must be a number, got '13'"),
        ({"bin_edges": [False, True]}, "'bin_edges' item 1 must be a number, got False"),
        ({"label_offset": "1"}, "'label_offset' must be a number, got '1'"),
        ({"label_offset": 10**5000}, "'label_offset' must be finite, got a number of more than 64"),
        ({"label_offset": 1e31}, r"finite numbers, at most 1e\+30 in size"),
        ({"unit": "\ud800"}, r"'unit' is not valid Unicode text, got '\\ud800'"),
        ({"unit": "x" * 10_001}, "'unit' has 10,001 characters, more than the limit of 10000"),
        ({"prediction": 1}, "'prediction' must be text, got 1"),
        (
            {"prediction": "max"},
            "'prediction' must be one of regressor, class, expected, got 'max'",
        ),
        ({"name": ""}, "'name' must be one word"),
        ({"name": "age of face"}, "'name' must be one word"),
        ({"name": "../age"}, "'name' must be one word"),
        ({"phrases": ["child"]}, "needs at least 2 phrases, got 1"),
        ({"bin_edges": [0, 13, 19, 35, 65]}, "5 phrases need 6 bin_edges .* got 5"),
        ({"bin_edges": [0, 13, 19, 35, 65, float("inf")]}, "must be finite"),
        ({"label_offset": float("nan")}, "must be finite"),
        ({"bin_edges": [0, 13, 13, 35, 65, 101]}, "must be strictly increasing, got"),
        ({"bin_edges": [0, 19, 13, 35, 65, 101]}, "must be strictly increasing"),
        ({"phrases": ["a", "b", " ", "d", "e"]}, "a phrase is empty"),
        ({"phrases": ["a", "b", "c", "d", "a"]}, "phrases must differ from each other, 'a' comes"),
        ({"phrases": [f"{i}" for i in range(1001)]}, "1,001 phrases; at most 1,000 are possible"),
        ({"phrases": ["a"] * 20_000}, "'phrases' has 20,000 items, more than the limit"),
    ],
)
def test_malformed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"^age\.toml: .*{message}"):
        Task.from_dict(AGE | changes, source="age.toml")


@pytest.mark.parametrize("name", list(AGE))
def test_missing_field(name: str) -> None:
    data = {key: value for key, value in AGE.items() if key != name}
    with pytest.raises(UsageError, match=rf"age\.toml: missing field\(s\) \['{name}'\]"):
        Task.from_dict(data, source="age.toml")
