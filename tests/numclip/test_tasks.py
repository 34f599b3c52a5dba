"""Task presets, task files, and tasks described by flags."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from numclip.model.prompts import PromptLearner
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
    "historical": {1: "1930s", 5: "1970s"},
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


GOOD = """
name = "rain"
unit = "mm"
bin_edges = [0, 1.5, 10]
phrases = ["dry", "wet"]
"""


def test_presets_fit_the_text_tower_of_clip() -> None:
    import torch

    for name in preset_names():
        task = load_task(name)
        PromptLearner(task.context, task.phrases, torch.zeros(49408, 1), 77)


def test_task_file(tmp_path: Path) -> None:
    path = tmp_path / "rain.toml"
    path.write_text(GOOD + 'context = "the sky looks"\nlabel_offset = -1\n', "utf-8")
    task = load_task(str(path))
    assert task == Task("rain", "mm", (0.0, 1.5, 10.0), ("dry", "wet"), "the sky looks", -1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = =", r"not valid TOML \(.+line 1"),
        (b"\xff\xfe", r"cannot read this task file \("),
        (GOOD.encode() + b"bins = 2", r"unknown field\(s\) \['bins'\]; known are"),
        (b'name = "rain"', r"missing field\(s\) \['bin_edges', 'phrases'\]"),
        (GOOD.replace("10]", "1]").encode(), r"task 'rain': bin_edges must be strictly increas"),
        (GOOD.replace("[0,", "[").encode(), r"2 phrases need 3 bin_edges"),
        (  # all that is wrong at once
            GOOD.replace("[0,", "[9, 8, 7,").replace('"wet"', '"dry"').encode(),
            r"2 phrases need 3 bin_edges .*; bin_edges must be strictly .*; phrases must differ",
        ),
        (GOOD.replace('"wet"', '"dry"').encode(), r"phrases must differ"),
        (GOOD.replace('"mm"', "1").encode(), r"'unit' must be text, got 1"),
    ],
)
def test_bad_task_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"bad\.toml: .*{message}"):
        load_task(str(path))


def test_no_such_task(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"unknown task 'agee'; presets are adience, .*, quality, or"
    ):
        load_task("agee")
    with pytest.raises(UsageError, match=r"gone\.toml: cannot read this task file"):
        load_task(str(tmp_path / "gone.toml"))
