"""Text of strangers: on terminals of any encoding, in JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from numclip_runtime import Prediction, Predictor, Task
from numclip_runtime.console import exit_on_error, json_text, visible
from numclip_runtime.errors import UsageError
from numclip_runtime.results.records import FORMULA, ParquetWriter, RecordWriter, record_of
from tests.runtime.conftest import invoke, records

COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"
NAMES = ("\U0001f600.png", "é.png", "写真.png")
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
BIDI = "\u202egnp.exe"


def run(*args: object, encoding: str) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | {"PYTHONIOENCODING": encoding}
    command = [str(arg) for arg in (COMMAND, *args)]
    return subprocess.run(command, capture_output=True, env=env, check=False)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (folder := tmp_path / "pictures").mkdir()
    for name in NAMES:
        Image.new("L", (8, 8), 200).save(folder / name)
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16", "shift_jis"])
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_is_json_on_any_stdout(tiny: Path, pictures: Path, encoding: str, kind: str) -> None:
    """Found: a pipe on Windows got \\U0001f600, which JSON does not have."""
    done = run(
        tiny, pictures, pictures / "gone-\U0001f600.png", "--format", kind, encoding=encoding
    )
    text = done.stdout.decode(encoding)
    found = json.loads(text) if kind == "json" else [*map(json.loads, text.splitlines())]
    assert {Path(record["path"]).name for record in found} >= set(NAMES)
    assert done.returncode == 1
    assert ("写" in text) == (encoding == "utf-8"), "characters stand as they are in UTF-8 alone"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("kind", ["csv", "table"])
def test_text_is_readable_on_any_stdout(
    tiny: Path, pictures: Path, encoding: str, kind: str
) -> None:
    done = run(tiny, pictures, "--format", kind, encoding=encoding)
    text = done.stdout.decode(encoding)
    assert (done.returncode, len(text.splitlines())) == (0, 1 + len(NAMES))
    assert r"\U0001f600.png" in text


def test_doctor_prints_json_on_any_stdout(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "\U0001f600.onnx"
    model.write_bytes(tiny.read_bytes())
    done = run("doctor", model, "--json", encoding="ascii")
    assert json.loads(done.stdout)["model"]["path"] == str(model)


@pytest.mark.parametrize("encoding", ["utf8", "UTF-8", "utf_8"])
def test_utf_8_has_several_names(encoding: str) -> None:
    assert json_text("é", encoding=encoding) == '"é"'
    assert json_text("é", encoding=None) == r'"\u00e9"'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["value", "bin_probs", "interval"])
def test_a_number_that_json_lacks_is_a_failed_record(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, number: float, place: str
) -> None:
    """Found: NaN among the probabilities was printed as NaN, with exit code 0."""
    whole = Predictor.postprocess

    def broken(self: Predictor, values: Any, bin_probs: Any) -> list[Prediction]:
        faults: Mapping[str, Any] = {
            "value": number,
            "bin_probs": {"dark": 0.5, "medium": number, "bright": 0.5},
            "interval": (1.0, number),
        }
        return [replace(p, **{place: faults[place]}) for p in whole(self, values, bin_probs)]

    monkeypatch.setattr(Predictor, "postprocess", broken)
    result = invoke(tiny, photos / "dark.png")
    (record,) = records(result)
    assert (result.exit_code, list(record)) == (1, ["path", "error"])
    assert f"{number}" in record["error"]


def spoken(task: Task, kind: str, path: str, **options: Any) -> str:
    file = io.StringIO()
    bins = dict.fromkeys(task.phrases, 1 / len(task.phrases))
    prediction = Prediction(1.5, task.unit, None, task.phrases[0], bins)
    with RecordWriter(kind, file, task=task, **options) as writer:  # type: ignore[arg-type]
        writer.write(record_of(path, prediction))
    return file.getvalue()


def test_a_table_shows_control_characters(predictor: Predictor) -> None:
    task = replace(
        predictor.metadata.task, unit=f"g{BIDI}", phrases=(f"dark{ESCAPE}", "medium\nx", "bright")
    )
    text = spoken(task, "table", f"a{ESCAPE}{BIDI}.png")
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()


def test_errors_are_one_line_without_control_characters(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), exit_on_error():
        raise UsageError(f"a{ESCAPE}\nError: b{BIDI}")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.removesuffix("\n").isprintable()
    for args in ((tiny, f"gone{ESCAPE}\n.png", "--format", "table"), (f"m{ESCAPE}", "a.png")):
        result = invoke(*args)
        assert "\x1b" not in result.stdout + result.stderr


def test_several_lines_on_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    error = UsageError("two are broken:\n  a\x1b\n  b\nRepair them.")
    error.lines = ("two are broken:", "  a\x1b", "  b", "Repair them.")
    with pytest.raises(SystemExit), exit_on_error():
        raise error
    assert capsys.readouterr().err == "Error: two are broken:\n  a\\x1b\n  b\nRepair them.\n"


def test_cells_that_a_spreadsheet_would_run(predictor: Predictor) -> None:
    """As they are by default, so that programs read the name; with --csv-safe behind a "'"."""
    task = predictor.metadata.task
    for start in FORMULA:
        path = f'{start}HYPERLINK("http://x")'
        for safe, expected in ((False, path), (True, f"'{path}")):
            rows = list(
                csv.reader(io.StringIO(spoken(task, "csv", path, csv_safe=safe), newline=""))
            )
            assert rows[1][0] == expected
    safe_rows = list(csv.reader(io.StringIO(spoken(task, "csv", "-a.png", csv_safe=True))))
    assert safe_rows[1][1] == "1.5", "numbers stay numbers"


def test_csv_safe_is_about_csv(tiny: Path, photos: Path) -> None:
    result = invoke(tiny, photos, "--csv-safe", "--format", "json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--csv-safe is about CSV" in result.stderr
    result = invoke(tiny, photos, "--csv-safe", "--format", "csv")
    assert result.exit_code == 0


def test_surrogates_in_every_cell_of_parquet(predictor: Predictor) -> None:
    parquet, file = pytest.importorskip("pyarrow.parquet"), io.BytesIO()
    task = replace(predictor.metadata.task, unit="\ud800", phrases=("\udcff", "b", "c"))
    bins = {"\udcff": 0.2, "b": 0.3, "c": 0.5}
    prediction = Prediction(1.0, task.unit, None, "\udcff", bins)
    with ParquetWriter(file, task) as writer:
        writer.write(record_of("\udcfe.png", prediction))
    (row,) = parquet.read_table(file).to_pylist()
    assert (row["path"], row["unit"], row["bin"]) == (r"\udcfe.png", r"\ud800", r"\udcff")
    assert row["bin_probs"] == {r"\udcff": 0.2, "b": 0.3, "c": 0.5}


def test_visible_keeps_what_can_be_seen() -> None:
    assert visible("Größe 写真 \U0001f600.png") == "Größe 写真 \U0001f600.png"
