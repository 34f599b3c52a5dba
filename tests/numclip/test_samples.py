"""Labels: median of annotators, what is refused and how the error says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from numclip.data.numbers import number
from numclip.data.readers import read_samples
from numclip.data.samples import Sample, median, sample_of, write_csv
from numclip.tasks import load_task
from numclip_runtime import UsageError


@pytest.mark.parametrize(
    ("annotations", "expected"), [([4], 4), ([5, 1, 3], 3), ([4, 1, 2, 3], 3), ([30, 20], 30)]
)
def test_median_is_sorted_element_half(annotations: list[float], expected: float) -> None:
    assert median(annotations) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("3", 3), (" 3.0 ", 3), ("3e1", 30), (4, 4), ("nan", None), ("inf", None)),
        *(("1_0", None), ("", None), ("x", None), (None, None), (True, None), (10**400, None)),
    ],
)
def test_number(text: object, expected: float | None) -> None:
    assert number(text) == expected


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("age", "old", "the label 'old' is not a number"),
        ("age", "-1", "the label -1 is outside the task's range 0 to 101; correct it, or widen"),
        (
            *("historical", "0"),
            "the label 0 is outside the task's classes 1 to 5; correct it, give --label-offset 0 "
            "for a list of 0 to 4, or widen bin_edges of task 'historical'",
        ),
        ("adience", "8", "the label 8 .* classes 0 to 7; .* --label-offset 1 for a list of 1 to 8"),
        ("historical", "1930", "the label 1930 is outside the task's classes 1 to 5; correct it"),
        ("aesthetics", "0", "the label 0 is outside the task's classes 1 to 5"),
        ("aesthetics", "6.0", "the label 6 is outside the task's classes 1 to 5"),
        ("aesthetics", "2.5", "the label 2.5 is between the classes .* --prediction expected"),
    ],
)
def test_wrong_label(task: str, label: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^here: {message}"):
        sample_of(Path("a.png"), [label], load_task(task), "here")


def test_no_label() -> None:
    with pytest.raises(UsageError, match="here: the label is empty"):
        sample_of(Path("a.png"), [], load_task("age"), "here")


def test_written_csv_reads_back_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    samples = [
        Sample(Path("images/a, b.png"), 0.1, (), "x"),
        Sample(Path("images/c.png"), 3.0, (1.0, 4.0, 3.0), "y"),
    ]
    for sample in samples:
        sample.path.touch()
    write_csv(tmp_path / "images" / "val.csv", samples)
    monkeypatch.chdir("/")
    got = read_samples(tmp_path / "images" / "val.csv", load_task("age"), group_column="group")
    assert [s.path for s in got] == [tmp_path / s.path for s in samples]
    assert [(s.label, s.annotations, s.group) for s in got] == [
        (s.label, s.annotations, s.group) for s in samples
    ]
