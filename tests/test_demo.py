"""The demo's whole chain, on a fraction of its data."""

import csv
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = {"path", "value", "unit", "interval", "bin", "bin_probs", "error"}


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_demo_runs_every_link_of_the_chain(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    arguments = ["--folder", demo, "--epochs", 1, "--scale", 0.01, "--iterations", 3, "--no-check"]
    command = [sys.executable, "-m", "examples.quality.demo", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr

    splits = {name: read_csv(demo / "data" / f"{name}.csv") for name in ("train", "val", "test")}
    photos = {name: {row["path"].split("-")[1] for row in rows} for name, rows in splits.items()}
    assert all(photos.values())
    assert not photos["train"] & photos["test"]
    assert not photos["val"] & (photos["train"] | photos["test"])

    predictions = read_csv(demo / "predictions.csv")
    assert set(predictions[0]) == RECORD
    assert len(predictions) == len(splits["test"])
    assert all(0 <= float(row["value"]) <= 100 for row in predictions)

    report = json.loads((demo / "model.report.json").read_text("utf-8"))
    (onnx,) = report["artefacts"]
    assert onnx["parity"]["passed"]
    assert onnx["parity"]["source"] == "validation"
    inside = report["checkpoint"]["parameters"]
    assert onnx["parameters"] < sum(inside.values()) - inside["text_encoder"]
    assert "test MAE" in done.stdout
    assert (demo / "report.html").stat().st_size > 10_000
    assert (demo / "checkpoint.pt").is_file()
