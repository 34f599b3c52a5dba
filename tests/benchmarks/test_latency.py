from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import latency
from benchmarks.latency import Plan, run
from tests.benchmarks.conftest import METADATA, ROOT, DelayedBackend

QUICK = ("--threads", "1", "--iterations", "4", "--warmup", "1")
STATISTICS = {"p50", "p90", "p95", "p99", "max", "mean", "n"}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(latency.main, [*map(str, arguments), *QUICK])


def test_json_of_a_real_run(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "latency.json"
    result = invoke(tiny, "--json", output, "--batch", "1,3")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no progress bar without a terminal

    document: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert set(document) == {"environment", "results"}
    environment = document["environment"]
    assert set(environment["versions"]) >= {"numpy", "pillow", "onnxruntime"}
    assert environment["images"]["source"] == "synthetic"
    assert environment["images"]["count"] == 16
    assert environment["images"]["megapixels"] == pytest.approx(640 * 480 / 1e6)
    assert (environment["warmup"], environment["iterations"]) == (1, 4)
    assert environment["date"].endswith("+00:00")
    for key in ("command", "numclip", "python", "platform", "cpu", "logical_cores"):
        assert environment[key], key
    assert {"load_average_before", "load_average_after"} <= set(environment)

    assert [row["batch"] for row in document["results"]] == [1, 3]
    for row in document["results"]:
        assert row["model"] == "tiny.onnx"  # no folder
        assert row["sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
        assert (row["backend"], row["provider"]) == ("onnxruntime", "CPUExecutionProvider")
        assert (row["precision"], row["threads"]) == ("fp32", 1)
        assert row["throughput_img_s"] > 0
        assert list(row["stages_ms"]) == [
            "decode",
            "preprocess",
            "inference",
            "postprocess",
            "total",
        ]
        for statistics in row["stages_ms"].values():
            assert set(statistics) == STATISTICS
            assert statistics["n"] == 4
            assert 0 < statistics["p50"] <= statistics["p90"] <= statistics["p99"]
            assert statistics["p99"] <= statistics["max"]


def test_table_is_aligned(tiny: Path, photos: Path) -> None:
    result = invoke(tiny, "--images", photos, "--batch", "1,12")
    assert result.exit_code == 0, result.output
    note, _, header, *rows = result.output.splitlines()
    assert "5 given images (photos)" in note
    assert header.split()[:4] == ["model", "backend", "precision", "batch"]
    assert header.split()[-5:] == ["total", "p50", "total", "p99", "img/s"]
    assert [row.split()[3] for row in rows] == ["1", "12"]
    assert {len(row) for row in rows} == {len(header)}


def test_folder_is_named_without_its_parents(tiny: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "latency.json"
    assert invoke(tiny, "--images", photos, "--json", output).exit_code == 0
    images = json.loads(output.read_text(encoding="utf-8"))["environment"]["images"]
    assert images == {"source": "given", "name": "photos", "count": 5, "megapixels": 0.0002}


def test_script_runs_from_any_folder(tiny: Path, photos: Path, tmp_path: Path) -> None:
    # A copy, and with a sign: an editable install would find the original by itself.
    copy = shutil.copytree(ROOT / "benchmarks", tmp_path / "copy" / "benchmarks")
    (copy / "__init__.py").write_text("print('copy')")
    script = copy / "latency.py"
    arguments = [str(tiny), "--images", str(photos), "--json", "out.json", *QUICK]
    command = [sys.executable, str(script), *arguments]
    shown = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE).stdout
    assert shown.startswith(b"copy")
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text)["environment"]["command"] == (
        "python benchmarks/latency.py tiny.onnx --images photos --json out.json " + " ".join(QUICK)
    )
    assert str(tmp_path) not in text


@pytest.mark.parametrize("text", ["", "0", "1,x", "1,", "-2", "1.5"])
def test_bad_batch_is_a_usage_error(tiny: Path, text: str) -> None:
    result = invoke(tiny, "--batch", text)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert f"{text!r} is no list of batch sizes" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.onnx"], "missing.onnx: no such file"),
        (["{tiny}", "--json", "none/out.json"], "none/out.json: cannot write there"),
        (["{tiny}", "--plot", "out.pdf"], "out.pdf: cannot plot into this kind of file"),
        (["{tiny}", "--images", "."], "no images in this folder"),
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


def test_failed_run_leaves_no_file(tiny: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "3.png").write_bytes(b"no image")
    output = tmp_path / "latency.json"
    result = invoke(tiny, "--images", photos, "--json", output)
    assert result.exit_code == 2
    assert "3.png" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_checkpoint_adds_rows_and_first_predictions(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"weights")
    first = {
        "numclip_runtime": {"median": 0.5, "min": 0.4, "max": 0.75, "n": 5},
        "torch": {"median": 4.0, "min": 3.5, "max": 5.25, "n": 5},
    }

    def open_torch(path: Path, *, threads: int | None) -> DelayedBackend:
        assert (path, threads) == (checkpoint, None)
        backend = DelayedBackend([0.0], lambda _: None)
        backend.name = "torch"
        return backend

    monkeypatch.setattr(latency, "TorchBackend", open_torch)
    monkeypatch.setattr(latency, "first_predictions", lambda *_, **__: first)
    output = tmp_path / "latency.json"
    rows = run(
        tiny,
        Plan(batches=(2,), iterations=2, warmup=0),
        images=photos,
        json_path=output,
        ckpt=checkpoint,
    )
    assert [row.backend for row in rows] == ["onnxruntime", "torch"]
    document = json.loads(output.read_text(encoding="utf-8"))
    assert document["first_prediction_s"] == first
    added = document["results"][1]
    assert added["model"] == "checkpoint.pt"
    assert added["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert added["precision"] == METADATA.precision
    assert added["threads"] is None
