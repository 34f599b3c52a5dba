"""Presets load and say what they are for; flags change or describe a task."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from numclip.tasks import described_task, load_task, preset_names
from numclip_runtime import Task, UsageError

# label in files -> bin's phrase
LABELS: dict[str, dict[float, str]] = {
    "adience": {0: "baby", 3: "teenager", 7: "senior citizen"},
    "aesthetics": {1: "unacceptable", 3: "ordinary", 5: "exceptional"},
    "age": {0: "child", 13: "teenager", 64: "middle adult", 100: "older adult"},
    "count": {
        **{0: "no objects", 1: "a single object", 2: "a few objects", 6: "many objects"},
        **{20: "dozens of objects", 99: "dozens of objects", 1000: "hundreds of objects"},
    },
    "historical": {0: "1930s", 4: "1970s"},
    "quality": {0: "imperceptible", 100: "very annoying"},
}


def test_presets() -> None:
    assert preset_names() == sorted(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_preset_bins(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    for label, phrase in LABELS[name].items():
        assert task.contains(label)
        assert task.phrases[task.bin_of(label)] == phrase
    assert (task.prediction == "class") == task.labels_are_classes


@pytest.mark.parametrize("name", LABELS)
def test_preset_comments_say_what_files_contain(name: str) -> None:
    text = (resources.files("numclip") / "presets" / f"{name}.toml").read_text("utf-8")
    assert re.match(r"(#.*\n)*#.*Labels in files: ", text)


def test_flags_change_a_preset() -> None:
    task = described_task("age", {"unit": "a", "phrases": "v, w,x,y,z", "label_offset": 1.0})
    assert (task.name, task.unit, task.label_offset) == ("age", "a", 1)
    assert task.phrases == ("v", "w", "x", "y", "z")
    assert task.bin_edges == load_task("age").bin_edges
    assert described_task("age", {}) == load_task("age")


def test_flags_describe_a_task() -> None:
    flags = {"name": "crowd", "bin_edges": "0, 5,2e1", "phrases": "a few,a crowd"}
    assert described_task(None, flags) == Task("crowd", "", (0, 5, 20), ("a few", "a crowd"))


@pytest.mark.parametrize(
    ("preset", "flags", "message"),
    [
        (None, {}, r"no task: give --task .*adience, .* --name, --bin-edges, --phrases missing"),
        (None, {"name": "a", "bin_edges": "0,1"}, "describe one; --phrases missing"),
        ("age", {"bin_edges": "0,13;19"}, "--bin-edges: '13;19' is not a number"),
        ("age", {"bin_edges": "0,,1"}, "--bin-edges: '' is not a number"),
        ("age", {"bin_edges": "0,1,2"}, "age: task 'age': 5 phrases need 6 bin_edges .* got 3"),
        ("age", {"bin_edges": "0,9,8,7,6,5"}, "must be strictly increasing"),
        ("age", {"phrases": "a,b,c,d,"}, "a phrase is empty"),
        ("age", {"phrases": "a,b,c,d,a"}, "phrases must differ"),
        ("age", {"name": "my task"}, "'name' must be one word"),
        ("age", {"label_offset": float("nan")}, "must be finite"),
        (
            None,
            {"name": "a", "bin_edges": "0,1", "phrases": "x"},
            "command line: .* at least 2 phrases",
        ),
        ("nothing", {"unit": "a"}, "unknown task 'nothing'; presets are adience, aesthetics"),
    ],
)
def test_wrong_flags(preset: str | None, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        described_task(preset, flags)
