"""The demo's whole chain, on a fraction of its data."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = {"path", "value", "unit", "interval", "bin", "bin_probs", "error", "frame", "time_s"}


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
    engines_of_the_demo(demo)


def engines_of_the_demo(demo: Path) -> None:
    """Build real engines of the demo's model, in every precision, for four generations of GPUs."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return
    from click.testing import CliRunner

    from numclip_export.cli import main
    from numclip_runtime.model_files.plan import read_plan_metadata

    # 7.5 computes no FP32 matrix products, of which the float32 model has some in its pooling
    for precision, targets in (
        ("fp32", "86,89,120"),
        ("fp16", "75,86,89,120"),
        ("int8", "75,86,89,120"),
    ):
        output = demo / precision
        output.mkdir()
        options = ["--precision", precision, "--target", "tensorrt-rtx", "--atol", "100"]
        options += ["--compute-capability", targets, "-o", str(output / "model.onnx")]
        result = CliRunner().invoke(main, ["--ckpt", str(demo / "checkpoint.pt"), *options])
        assert result.exit_code == 0, result.output
        (plan,) = output.glob("*.plan")
        info = read_plan_metadata(plan)
        assert info.metadata.precision == precision
        assert info.engine.compute_capabilities == tuple(map(int, targets.split(",")))
        assert plan.read_bytes()[:4] == b"vtrt"  # a pure plan, nothing before it
        assert "not run here: " in result.output
