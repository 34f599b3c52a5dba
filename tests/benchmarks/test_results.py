"""The schema: the sample and every kept result load through it, and come out as they were."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.machine.environment import script_report
from benchmarks.bench.results import (
    Document,
    Environment,
    Images,
    from_plain,
    read_document,
    write_json,
)
from benchmarks.folder import ProgramSpeed, StreamSpeed
from benchmarks.memory import Sample
from benchmarks.object_store import SourceSpeed
from benchmarks.ray_job import JobRun
from benchmarks.training import TrainingSpeed
from numclip_runtime import UsageError
from tests.benchmarks.conftest import ROOT
from tests.benchmarks.sample_document import make_document

SAMPLE = ROOT / "tests" / "data" / "latency.sample.json"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def round_trips(kind: Any, data: Any) -> None:
    assert asdict(from_plain(kind, data)) == data


@pytest.mark.parametrize("path", [SAMPLE, *RESULTS], ids=lambda path: path.stem)
def test_kept_results_round_trip(path: Path) -> None:
    data = json.loads(path.read_text("utf-8"))
    if path.stem.startswith(("latency", "paired")):
        round_trips(Document, data)
        text = StringIO()
        write_json(text, read_document(path))
        assert text.getvalue() == path.read_text("utf-8")
        return
    if path.stem.startswith("ray"):
        for row in data["rows"]:
            round_trips(JobRun, row)
        data = {"environment": data["environment"]}
    if path.stem.startswith("arm"):  # of .ci/arm.py, which is no benchmark
        assert data["rows"]
        data = {"environment": data["environment"]}
    if path.stem.startswith("store"):
        for row in data["rows"]:
            round_trips(SourceSpeed, row)
        data = {"environment": {k: v for k, v in data["environment"].items() if k != "store"}}
    round_trips(Environment, data["environment"])
    for sample in data.get("samples", []):  # memory
        round_trips(Sample, sample)
    if "images" in data:
        names = {field.name for field in fields(Images)}
        round_trips(Images, {name: data["images"][name] for name in names})
    for row in data.get("rows", []):  # folder
        round_trips(StreamSpeed if "workers" in row else ProgramSpeed, row)
    if path.stem.startswith("training"):
        for row in data["results"]:
            round_trips(TrainingSpeed, row)


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


def test_report_of_a_script(tmp_path: Path) -> None:
    with script_report(None, ["x.py"]) as write:
        write(results=[Sample(1, 2, 3, 4.0)])
    (tmp_path / "file").write_text("no folder")
    missing = script_report(tmp_path / "file" / "a", ["x.py"])
    with pytest.raises(UsageError, match="cannot write there"), missing:
        pass
    with script_report(tmp_path / "a.json", ["/a/x.py"]) as write:
        write({"rounds": 3}, results=[Sample(1, 2, 3, 4.0)])
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert document["results"] == [{"images": 1, "rss_kib": 2, "peak_kib": 3, "seconds": 4.0}]
    assert document["environment"]["rounds"] == 3
    assert document["environment"]["command"] == "python benchmarks/x.py"
