"""Digits follow the range: 0.00012 of 0.0003 is not "0.00", and 2.5 billion has no cents."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest

from numclip_runtime import Prediction, Predictor, Task
from numclip_runtime.app.annotate import lines_of
from numclip_runtime.app.gallery import ReportEntry, write_report
from numclip_runtime.results.records import RecordWriter, record_of
from numclip_runtime.task import as_written


def task_to(high: float, low: float = 0.0, unit: str = "") -> Task:
    return Task("x", unit, (low, (low + high) / 2, high), ("few", "many"))


@pytest.mark.parametrize(
    ("high", "value", "table", "metric", "fitting"),
    [
        (100.0, 41.236, "41.24", "41.236", "41.2"),  # ages: as ever
        (30.0, 5.0, "5.00", "5.000", "5.00"),
        (1.0, 0.5, "0.50", "0.500", "0.500"),
        (99_999.0, 12345.678, "12345.68", "12345.678", "12346"),
        (0.3, 0.12346, "0.123", "0.1235", "0.1235"),
        (0.0003, 0.000123456, "0.000123", "0.0001235", "0.0001235"),
        (3e-7, 1.23456e-7, "0.000000123", "0.0000001235", "0.0000001235"),
        (3e-12, 1.23456e-12, "1.23e-12", "1.235e-12", "1.23e-12"),
        (5e5, 123456.789, "123456.8", "123456.79", "123457"),
        (5e9, 2.34567891234e9, "2345678912", "2345678912", "2345678912"),
        (5e20, 2.34567891234e20, "2.35e+20", "2.346e+20", "2.35e+20"),
    ],
)
def test_a_number_of_a_range(
    high: float, value: float, table: str, metric: str, fitting: str
) -> None:
    task = task_to(high)
    assert (task.number(value, 2), task.number(value, 3)) == (table, metric)
    assert task.number(value) == fitting


@pytest.mark.parametrize("exponent", range(-30, 30, 3))
def test_a_hundredth_of_any_range_is_not_nothing(exponent: int) -> None:
    task = task_to(3 * 10.0**exponent)
    share = task.label_range / 100
    for text in (task.number(share), task.number(share, 2), task.number(share, 3)):
        assert math.isclose(float(text), share, rel_tol=0.35)
        assert len(text) < 21


def test_a_narrow_range_far_from_zero() -> None:
    """The range decides, and not the size of the numbers."""
    assert task_to(1013.4, 1013.1).number(1013.2341, 2) == "1013.234"
    assert task_to(1 + 1e-12, 1.0).number(1 + 3e-13, 2) == "1.00000000000030e+00"


def test_signs() -> None:
    task = task_to(0.0003)
    assert task.number(0.000012, 3, sign=True) == "+0.0000120"
    assert task.number(-0.000012, 3, sign=True) == "-0.0000120"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.1 + 0.2, "0.3"), (3e-4, "0.0003"), (5e9, "5000000000"), (1234567.5, "1234567.5"), (3, "3")],
)
def test_numbers_that_a_person_chose(number: float, text: str) -> None:
    assert as_written(number) == text


def test_table_copies_and_page_of_a_small_range(predictor: Predictor, tmp_path: Path) -> None:
    """Found: every row of the table said "0.00 g/l"."""
    task = task_to(0.0003, unit="g/l")
    found = Prediction(0.000123456, "g/l", (0.0001, 0.00015), "few", {"few": 0.6, "many": 0.4})
    file = io.StringIO()
    with RecordWriter("table", file, task=task, intervals=True) as writer:
        writer.write(record_of("a.png", found))
    assert "  0.000123 g/l  0.000100 to 0.000150  few 60%" in file.getvalue()
    assert lines_of(found, task)[:2] == ["0.0001235 g/l", "0.0001000 to 0.0001500 (90%)"]
    page = tmp_path / "r.html"
    write_report(page, [ReportEntry("a.png", found, label=0.0001)], title="x", task=task)
    text = page.read_text("utf-8")
    assert "0.0001235" in text
    assert "true <b>0.0001000</b>" in text
    assert "0.00015 to 0.0003" in text


def test_large_ranges_keep_their_edges(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    task = replace(task_to(5e9), unit="people")
    write_report(page, [], title="x", task=task)
    assert "2500000000 to 5000000000" in page.read_text("utf-8")
