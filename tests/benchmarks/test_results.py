"""The schema: the sample and every kept result load through it, and come out as they were."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest

from benchmarks.bench.results import Document, from_plain, read_document, report_file, write_json
from benchmarks.folder import FolderReport
from benchmarks.memory import MemoryReport
from benchmarks.training import TrainingReport
from numclip_runtime import UsageError
from tests.benchmarks.conftest import ROOT
from tests.benchmarks.sample_document import make_document

SAMPLE = ROOT / "tests" / "data" / "latency.sample.json"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
KINDS = {
    "latency": Document,
    "paired": Document,
    "folder": FolderReport,
    "memory": MemoryReport,
    "training": TrainingReport,
}


@pytest.mark.parametrize("path", [SAMPLE, *RESULTS], ids=lambda path: path.stem)
def test_kept_results_round_trip(path: Path) -> None:
    kind = KINDS.get(path.stem.replace(".", "-").partition("-")[0])
    if kind is None:
        assert path.stem == "ablation"  # of examples/
        return
    data = json.loads(path.read_text("utf-8"))
    assert asdict(from_plain(kind, data)) == data
    if kind is Document:
        text = StringIO()
        write_json(text, read_document(path))
        assert text.getvalue() == path.read_text("utf-8")


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    document = make_document(tmp_path / "machine", samples=5, ways=2, mae=True)
    with (tmp_path / "a.json").open("w", encoding="utf-8") as file:
        write_json(file, document)
    found = read_document(tmp_path / "a.json")
    assert found.state == document.state
    assert [row.name for row in found.rows] == [row.name for row in document.rows]
    assert found.rows[0].mae == document.rows[0].mae


def test_fields_of_another_schema_are_refused(tmp_path: Path) -> None:
    data = json.loads(SAMPLE.read_text("utf-8"))
    for change in ({"extra": 1}, {"rows": [{"name": "a"}]}):
        (tmp_path / "a.json").write_text(json.dumps(data | change))
        with pytest.raises(UsageError, match=r"a\.json: not the JSON of a run"):
            read_document(tmp_path / "a.json")


def test_no_file_is_written_where_none_is_asked_for(tmp_path: Path) -> None:
    with report_file(None) as write:
        write(make_document(tmp_path / "machine", samples=5, ways=1))
    with pytest.raises(UsageError, match="cannot write there"), report_file(tmp_path / "no" / "a"):
        pass
