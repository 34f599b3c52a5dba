"""Task presets and task files."""

from __future__ import annotations

from pathlib import Path

import pytest

from numclip.model.prompts import PromptLearner
from numclip.tasks import load_task, preset_names
from numclip_runtime import Task, UsageError

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
        (b'name = "rain"', r"missing field\(s\) \['unit', 'bin_edges', 'phrases'\]"),
        (GOOD.replace("10]", "1]").encode(), r"task 'rain': bin_edges must be strictly increas"),
        (GOOD.replace("[0,", "[").encode(), r"2 phrases need 3 bin_edges"),
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
