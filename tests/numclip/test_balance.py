"""The table of class balance, to the character."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from numclip.data.checks import balance_table, bar_character, empty_bins, summary
from numclip.data.samples import Sample
from numclip.tasks import load_task


def samples(*labels: float) -> list[Sample]:
    return [Sample(Path("a.png"), label) for label in labels]


def test_ranges() -> None:
    sets = {"train": samples(*[14] * 30, *[70] * 300, 20), "val": samples(3, 70)}
    assert balance_table(sets, load_task("age")).splitlines() == [
        "bin           years       train                       val",
        "child         0 to 13         0   0.0%                  1  50.0% ##########",
        "teenager      13 to 19       30   9.1% #                0   0.0%",
        "young adult   19 to 35        1   0.3% #                0   0.0%",
        "middle adult  35 to 65        0   0.0%                  0   0.0%",
        "older adult   65 to 101     300  90.6% ##########       1  50.0% ##########",
    ]


def test_classes_with_offset() -> None:
    table = balance_table({"train": samples(1, 5)}, load_task("aesthetics"), bar="=")
    assert table.splitlines()[0].split() == ["bin", "label", "train"]
    assert table.splitlines()[1].split() == ["unacceptable", "1", "1", "50.0%", "=" * 10]


def test_summary() -> None:
    age = load_task("age")
    assert summary("val", samples(16, 77.5), age) == "val: 2 images, labels 16 to 77.5 years"
    several = [*samples(1), Sample(Path("b.png"), 2.0, (2.0, 3.0))]
    assert summary("train", several, load_task("aesthetics")) == (
        "train: 2 images, labels 1 to 2, 1 with several annotators"
    )


def test_empty_bins() -> None:
    assert empty_bins(samples(14, 20, 40), load_task("age")) == ["child", "older adult"]


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "█"), ("ascii", "#")])
def test_bar_fits_stdout(encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert bar_character() == expected
