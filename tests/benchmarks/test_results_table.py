from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.bench.document import without_home
from benchmarks.bench.output.outputs import comparison
from benchmarks.bench.output.table import number
from benchmarks.bench.results import read_document
from benchmarks.results_table import BEGIN, END, main, result_files, updated
from numclip_runtime import UsageError
from tests.benchmarks.conftest import ROOT

SAMPLE = ROOT / "tests" / "data" / "latency.sample.json"


def test_page_and_kept_results_agree() -> None:
    readme = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    if BEGIN not in readme and not result_files():
        pytest.skip("no results are kept yet")
    assert BEGIN in readme, "results are kept, and the page has no markers for their table"
    again = updated(readme, result_files())
    assert readme == again, "run: python benchmarks/results_table.py"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a folder with a README and results."""
    shutil.copy(SAMPLE, tmp_path / "latency-here.json")
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    (tmp_path / "gpu.md").write_text("no markers\n", "utf-8")
    return tmp_path


def invoke(folder: Path, *more: str) -> Any:
    pages = ["--readme", str(folder / "README.md"), "--gpu-page", str(folder / "gpu.md")]
    return CliRunner().invoke(main, [*pages, "--results", str(folder), *more])


def test_command_writes_the_table_and_then_finds_nothing_to_do(kept: Path) -> None:
    assert invoke(kept, "--check").exit_code == 1
    assert "\nold\n" in (kept / "README.md").read_text("utf-8")  # checked, not written
    assert invoke(kept).exit_code == 0
    text = (kept / "README.md").read_text("utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    rows = read_document(SAMPLE).rows
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len({row.name for row in rows})
    batches = {row.batch for row in rows}
    assert all(line.count("|") == 4 + len(batches) for line in table)
    eager = next(row for row in rows if row.name == "torch eager")
    cell = f"{number(eager.stages_ms['inference'].p50)} ("
    assert sum(cell in line for line in table if line.startswith("| torch eager")) == 1
    assert invoke(kept, "--check").exit_code == 0
    # A figure of the results changes, and the README no longer agrees
    document = json.loads((kept / "latency-here.json").read_text("utf-8"))
    document["rows"][0]["stages_ms"]["inference"]["p50"] = 987.0
    (kept / "latency-here.json").write_text(json.dumps(document), "utf-8")
    failed = invoke(kept, "--check")
    assert failed.exit_code == 1
    assert "run python benchmarks/results_table.py" in failed.stderr
    assert "\nold\n" not in (kept / "README.md").read_text("utf-8")


def test_rows_that_compute_something_else_are_marked(kept: Path) -> None:
    document = json.loads((kept / "latency-here.json").read_text("utf-8"))
    row = next(row for row in document["rows"] if row["fidelity"] is not None)
    for cosine, marked in ((0.9989, True), (0.9991, False)):
        row["fidelity"]["cosine_min"] = cosine
        for other in document["rows"]:
            if other is not row:
                other["fidelity"] = None
        (kept / "latency-here.json").write_text(json.dumps(document), "utf-8")
        assert invoke(kept).exit_code == 0
        text = (kept / "README.md").read_text("utf-8")
        assert ("\\* the lowest centred cosine" in text) is marked
        assert text.count(")\\*") == marked


@pytest.mark.parametrize("text", [f"{BEGIN}", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_broken_markers_are_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="once each"):
        updated(text, [SAMPLE])


def test_markers_without_results_are_an_error() -> None:
    assert updated("no markers", []) == "no markers"
    with pytest.raises(UsageError, match="has markers"):
        updated(f"{BEGIN}{END}", [])


def test_comparison_finds_rows_and_what_else_changed() -> None:
    old, new = read_document(SAMPLE), read_document(SAMPLE)
    for row in new.rows:
        inference = row.stages_ms["inference"]
        row.stages_ms["inference"] = replace(inference, p50=inference.p50 / 2)
    new.rows[0].sha256 = "another"
    new.rows.append(replace(new.rows[0], name="a new one"))
    new.environment.cpu = "another CPU"
    new.environment.versions["onnxruntime"] = "9.9"
    text = "\n".join(comparison(new, old, name="old.json"))
    assert text.count("(2.00 times as fast)") == len(old.rows)
    assert text.count("(1.00 times as fast)") == len(old.rows)  # the total
    assert text.count("another file of this name") == 1
    assert "a new one" not in text
    was = old.environment
    assert f"Note: cpu: {was.cpu} then, another CPU now." in text
    assert f"Note: onnxruntime: {was.versions['onnxruntime']} then, 9.9 now." in text
    new.rows = []
    assert comparison(new, old, name="old.json") == ["compared with old.json: no row is in both."]


@pytest.mark.parametrize("text", ["", "[]", '{"results": []}', '{"schema": 1}'])
def test_only_documents_of_this_schema_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"old\.json: "):
        read_document(path)


def test_notes_name_no_folder_of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere/cache")
    assert without_home("/elsewhere/cache/numclip/made/x.onnx: failed") == "x.onnx: failed"
    note = f"{Path.home()}/.cache/made/x.onnx: cannot be run; see {Path.home()}/a/b.txt."
    assert without_home(note) == "x.onnx: cannot be run; see b.txt."


def test_kept_results_name_no_folder_of_a_user() -> None:
    for path in result_files():
        assert not re.search(r"/(root|home|Users|tmp)/", path.read_text("utf-8")), path.name
