"""Folders named by numbers or phrases."""

from __future__ import annotations

from pathlib import Path

import pytest

from numclip.data.readers import read_samples
from numclip.tasks import load_task
from numclip_runtime import Task, UsageError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def labels(folder: Path, task: Task) -> dict[str, float]:
    return {s.path.relative_to(folder).as_posix(): s.label for s in read_samples(folder, task)}


def test_numbers_and_phrases(tmp_path: Path) -> None:
    make(tmp_path, "34/a.png", "2.5/deep/b.JPG", "Young_Adult/c.png", "older-adult/d.png")
    make(tmp_path, "notes.txt", "34/notes.txt", ".cache/x.png")
    (tmp_path / "child").mkdir()  # empty: a bin without images
    assert labels(tmp_path, load_task("age")) == {
        "34/a.png": 34,
        "2.5/deep/b.JPG": 2.5,
        "Young_Adult/c.png": 27,  # the centre of 19 to 35
        "older-adult/d.png": 83,
    }


def test_phrases_of_classes(tmp_path: Path) -> None:
    make(tmp_path, "1930s/a.png", "1970s/b.png")
    assert labels(tmp_path, load_task("historical")) == {"1930s/a.png": 0, "1970s/b.png": 4}


def test_label_offset(tmp_path: Path) -> None:
    make(tmp_path, "flawed/a.png", "5/b.png")
    assert labels(tmp_path, load_task("aesthetics")) == {"5/b.png": 5, "flawed/a.png": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elder/a.png", "elder: neither a number nor a phrase .* 'age': 'child', 'teenager'"),
        ("a.png", "a.png: lies beside the folders of the bins; move it"),
        ("200/a.png", "200: the label 200 is outside the task's range 0 to 101"),
        ("notes.txt", "holds no images; name the subfolders by labels, or by the phrases"),
    ],
)
def test_wrong_folder(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_samples(make(tmp_path, name), load_task("age"))


def test_a_number_that_is_the_phrase_of_another_bin(tmp_path: Path) -> None:
    task = Task("grade", "", (1.0, 2.0, 3.0), ("2", "1"))
    make(tmp_path, "2/a.png")
    with pytest.raises(UsageError, match="2: is a number of bin '1' and the phrase of another"):
        read_samples(tmp_path, task)
    assert labels(tmp_path, Task("grade", "", (1.0, 2.0, 3.0), ("1", "2"))) == {"2/a.png": 2}
