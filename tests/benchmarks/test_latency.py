from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import latency
from benchmarks.bench.machine.ceilings import Ceilings
from benchmarks.bench.output.table import number, text_table
from benchmarks.bench.processes.worker import Worker
from benchmarks.bench.results import STAGES, Document, LabelError, Row, read_document
from tests.benchmarks.conftest import ROOT

SAMPLE = ROOT / "tests" / "data" / "latency.sample.json"
QUICK = ("--threads", "1", "--iterations", "4", "--warmup", "0", "--starts", "1")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave the ceilings out, which take seconds, and keep away from the user's cache."""
    monkeypatch.setattr(
        "benchmarks.bench.document._ceilings", lambda *_: Ceilings({"fp32": 100.0}, "nothing")
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(latency.main, [*map(str, arguments), *QUICK])


@pytest.fixture(scope="module")
def script_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the script of a copy, from another folder; return its JSON."""
    # A copy, and with a sign: an editable install would find the original by itself.
    folder = tmp_path_factory.mktemp("script")
    compiled = shutil.ignore_patterns("__pycache__")  # which other processes may be writing
    copy = shutil.copytree(ROOT / "benchmarks", folder / "copy" / "benchmarks", ignore=compiled)
    (copy / "__init__.py").write_text("import sys; print('copy', file=sys.stderr)")
    ceilings = copy / "bench" / "machine" / "ceilings.py"
    ceilings.write_text(ceilings.read_text("utf-8").replace("SECONDS = 1.5", "SECONDS = 0.01"))
    tiny = ROOT / "tests" / "data" / "tiny.onnx"
    command = [sys.executable, str(copy / "latency.py"), str(tiny), "--batch", "3,1"]
    command += ["--json", "out.json", *QUICK]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert done.stderr.split() == [b"copy"]  # and no progress bar without a terminal
    return folder / "out.json"


def test_script_runs_from_any_folder(script_run: Path) -> None:
    text = script_run.read_text(encoding="utf-8")
    assert json.loads(text)["environment"]["command"] == (
        "python benchmarks/latency.py tiny.onnx --batch 3,1 --json out.json " + " ".join(QUICK)
    )
    assert str(script_run.parent) not in text


def test_json_of_a_real_run(script_run: Path, tiny: Path) -> None:
    output = script_run
    document: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert asdict(read_document(output)) == document  # the schema, no field missing
    assert set(document) == {field.name for field in fields(Document)}
    assert set(document["rows"][0]) == {field.name for field in fields(Row)}
    environment = document["environment"]
    assert set(environment["versions"]) >= {"numpy", "pillow", "onnxruntime"}
    assert environment["images"]["count"] == 32
    assert environment["images"]["megapixels"] == pytest.approx(640 * 480 / 1e6)
    assert (environment["iterations"], environment["rounds"]) == (4, 4)
    assert environment["date"].endswith("+00:00")
    for key in ("command", "numclip", "python", "platform", "cpu", "logical_cores"):
        assert environment[key], key

    assert [row["batch"] for row in document["rows"]] == [1, 3]
    for row in document["rows"]:
        assert row["model"] == "tiny.onnx"  # no folder
        assert row["sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
        assert (row["backend"], row["provider"]) == ("onnxruntime", "CPUExecutionProvider")
        assert (row["precision"], row["threads"]) == ("fp32", 1)
        assert row["throughput_img_s"] > 0
        assert row["ratio"] is row["fidelity"] is row["mae"] is row["rate"] is None
        assert row["warmup"]["runs"] == 1
        assert not row["warmup"]["stable"]
        assert 0.05 < row["first_prediction_s"] < 60
        assert 20 < row["peak_host_mb"] < 1000
        assert list(row["stages_ms"]) == [*(s for s in STAGES if "load" not in s), "total"]
        for statistics in row["stages_ms"].values():
            assert statistics["n"] == 4
            assert 0 < statistics["p50"] <= statistics["p90"] <= statistics["p99"]
            assert statistics["p99"] <= statistics["max"]
        for stage in ("total", "inference"):
            samples = row[f"{stage}_ms_samples"]
            assert len(samples) == 4
            assert max(samples) == pytest.approx(row["stages_ms"][stage]["max"], abs=1e-3)


def test_everything_about_a_checkpoint_and_its_peers(
    checkpoint: Path, exported: Path, photos: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\nphotos/0.png,5\nphotos/3.png,15\n")
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "markdown")}
    result = invoke(
        *(exported, "--ckpt", checkpoint, "--peers", "plain-onnx,cuda-fp16"),
        *("--images", photos, "--data", labels, "--batch", "2", "--rate", "100"),
        *("--rate-seconds", "0.1", "--compare", SAMPLE),
        *(word for kind, path in paths.items() for word in (f"--{kind}", path)),
    )
    assert result.exit_code == 0, result.output
    document = json.loads(paths["json"].read_text("utf-8"))
    rows = {row["name"]: row for row in document["rows"]}
    # The reference comes along unasked
    assert list(rows) == ["numclip fp32, onnxruntime", "torch eager", "plain ONNX, onnxruntime"]
    reference = rows.pop("torch eager")
    assert reference["ratio"] is None
    assert reference["model"] == "checkpoint.pt"
    assert reference["fidelity"]["value_max"] < 1e-5  # batch 2 against batch 1
    for row in rows.values():
        assert row["ratio"]["to"] == "torch eager"
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert row["fidelity"]["value_max"] < 1e-4
        assert row["fidelity"]["cosine_min"] == pytest.approx(1, abs=1e-3)
        assert row["fidelity"]["images"] == 5
        assert row["mae"]["mae"] == pytest.approx(reference["mae"]["mae"], abs=1e-4)
        assert row["mae"]["images"] == 2
        assert row["rate"]["requests"] == 5
        assert row["ceiling_share"] > 0
    assert "torch" in document["environment"]["versions"]  # that only a process of its own loaded
    assert set(document["startup"]) == {"numclip_runtime", "torch"}
    notes = "\n".join(document["notes"])
    assert "torch fp16, CUDA is left out" in notes
    assert "only 5 different images" in notes
    for text in ("times as fast", "MAE", "p99 at rate", "first prediction:", "no row is in both"):
        assert text in result.output, text
    lines = list(csv.DictReader(paths["csv"].read_text("utf-8").splitlines()))
    assert [line["name"] for line in lines] == [row["name"] for row in document["rows"]]
    assert float(lines[0]["stages_ms.total.p99"]) > 0
    assert not any("samples" in name for name in lines[0])
    assert len(paths["markdown"].read_text("utf-8").splitlines()) == 2 + 3


def test_with_reload_only_one_system_is_in_memory(
    checkpoint: Path,
    exported: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: set[Worker] = set()
    starts: list[str] = []

    class Watched(Worker):
        def __init__(self, target: str, name: str, /, **arguments: Any) -> None:
            assert not alive
            super().__init__(target, name, **arguments)
            alive.add(self)
            starts.append(name)

        def close(self) -> None:
            super().close()
            alive.discard(self)

    monkeypatch.setattr("benchmarks.bench.run.Worker", Watched)
    output = tmp_path / "out.json"
    result = invoke(
        *(exported, "--ckpt", checkpoint, "--images", photos, "--batch", "1,3"),
        *("--rounds", "2", "--reload", "--json", output),
    )
    assert result.exit_code == 0, result.output
    assert "4 batches per row in 2 turns, each with the system loaded alone" in result.output
    document = read_document(output)
    assert (document.environment.rounds, document.environment.reload) == (2, True)
    # One start for the first prediction, one for each turn, one for the fidelity
    assert starts.count("numclip fp32, onnxruntime") == 1 + 2 + 1
    assert starts.count("torch eager") == 1 + 2 + 1 + 1  # the outputs that all are compared with
    assert len(starts) == 9
    assert [(row.name, row.batch) for row in document.rows] == [
        (name, batch) for batch in (1, 3) for name in ("numclip fp32, onnxruntime", "torch eager")
    ]
    for row in document.rows:
        assert row.warmup.runs == (40 if row.batch == 1 else 1)
        assert len(row.total_ms_samples) == 4
        assert (row.peak_host_mb or 0) > 20
        assert row.fidelity is not None
        assert row.fidelity.value_max < 1e-4
        assert (row.ratio is None) == (row.name == "torch eager")


def test_checkpoint_of_other_weights_is_refused(checkpoint: Path, tiny: Path, photos: Path) -> None:
    result = invoke(tiny, "--ckpt", checkpoint, "--images", photos)
    assert result.exit_code == 2
    assert "none of the models was made from this checkpoint" in result.stderr


def test_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    parts = text_table(read_document(SAMPLE).rows).split("\n\n")
    assert len(parts) > 1
    assert all(part.startswith("name ") for part in parts)
    assert max(len(line) for part in parts for line in part.splitlines()) <= 80


def test_table_is_aligned_and_leaves_out_empty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    rows = read_document(SAMPLE).rows
    header, *lines = text_table(rows).splitlines()
    assert {len(line) for line in lines} == {len(header)}
    assert header.startswith("name ")
    assert "upload" not in header
    assert "MAE" not in header
    rows[1].mae = LabelError(1.25, "years", 2, 0)
    rows[0].stages_ms["upload"] = rows[0].stages_ms["decode"]
    header, *lines = text_table(rows).splitlines()
    assert "upload" in header
    assert "MAE" in header
    assert {len(line) for line in lines} == {len(header)}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (1234.5, "1234"), (3.14159, "3.14"), (42.0, "42.0"), (2e-6, "2e-06")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("text", ["", "0", "1,x", "1,", "-2", "1.5"])
def test_bad_batch_is_a_usage_error(tiny: Path, text: str) -> None:
    result = invoke(tiny, "--batch", text)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert f"{text!r} is not a list of batch sizes" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.onnx"], "missing.onnx: no such file"),
        (["{tiny}", "--json", "{tiny}/out.json"], "out.json: cannot write there"),
        (["{tiny}", "--plot", "out.pdf"], "out.pdf: cannot plot into this kind of file"),
        (["{tiny}", "--images", "."], "no images in this folder"),
        (["{tiny}", "--peers", "all"], "--peers run the checkpoint"),
        (["{tiny}", "--model-size", "RN50"], "leave one of them out"),
        (["--ckpt", "x.pt"], "give them as well"),
        (["{tiny}", "--compare", "old.json"], "old.json: not the JSON of a run"),
        (["{tiny}", "--precision", "int8"], "nothing is left to measure"),
        (["{tiny}", "--ckpt", "x.pt", "--peers", "all,none"], "stand alone"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*(argument.format(tiny=tiny) for argument in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--peers", "--backend", "--precision"])
def test_unknown_words_are_usage_errors(option: str, tiny: Path) -> None:
    result = invoke(tiny, option, "nonsense")
    assert result.exit_code == 2
    assert "'nonsense' is none of" in result.stderr


def test_failed_run_leaves_no_file(tiny: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "3.png").write_bytes(b"no image")
    output = tmp_path / "latency.json"
    result = invoke(tiny, "--images", photos, "--json", output)
    assert result.exit_code == 2
    assert "3.png" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_missing_psutil_is_one_sentence(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    result = invoke(tiny)
    assert result.exit_code == 2
    assert "psutil" in result.stderr
    assert "pip install 'numclip[bench]'" in result.stderr
    assert result.stderr.count("\n") == 1
