"""The whole chain on real photos: make data, train, export, predict, measure, report.

Each step is the command a user would type; it is printed before it runs. Everything lands in
`demo/`. The last line says whether the model beats half the error of a constant predictor.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from numclip_runtime.console import FILE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGET = 0.5  # the test MAE must stay below this share of the constant predictor's


def step(title: str, *command: object, **variables: str) -> None:
    """Print and run one command from the repository's root; stop the demo if it fails."""
    words = [str(word) for word in command]
    settings = [f"{name}={value}" for name, value in variables.items()]
    click.secho(f"\n== {title}", bold=True)
    click.echo(f"$ {shlex.join([*settings, Path(words[0]).name, *words[1:]])}")
    sys.stdout.flush()
    done = subprocess.run(words, cwd=ROOT, check=False, env=os.environ | variables)
    if done.returncode != 0:
        sys.exit(f"the step '{title}' failed with exit code {done.returncode}")


def script(name: str) -> Path:
    """Return the path of a console script in the environment that runs this file."""
    return Path(sys.executable).parent / name


@click.command()
@click.option("--folder", default="demo", show_default=True, help="Under the repository's root.")
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True)
@click.option("--scale", type=float, default=1.0, help="Share of the full number of images.")
@click.option("--iterations", type=click.IntRange(1), default=200, help="Of the benchmark.")
@click.option("--check/--no-check", default=True, help="Exit 1 where the error is too large.")
@click.option("--picture", type=FILE, help="Also draw the README's picture.")
def main(
    folder: str, epochs: int, scale: float, iterations: int, check: bool, picture: Path | None
) -> None:
    """Run the demo."""
    from examples.quality.picture import make_picture
    from examples.quality.report import make_report, read_entries, read_labels

    started = time.perf_counter()
    demo = Path(folder)  # relative to ROOT: what a user would type
    (ROOT / demo).mkdir(parents=True, exist_ok=True)
    data, ckpt, model = demo / "data", demo / "checkpoint.pt", demo / "model.onnx"

    step(
        "Make data: crops of real photos, degraded by blur, noise or JPEG",
        *(sys.executable, HERE.relative_to(ROOT) / "make_data.py", data, "--scale", scale),
    )
    step(
        "Train a small CLIP from scratch",
        *(script("numclip-train"), *train_flags(data, ckpt, epochs)),
        OMP_NUM_THREADS="1",  # two gain nothing in a network this small, and wait for each other
    )
    step("Fold and export", script("numclip-export"), "--ckpt", ckpt, "-o", model)
    predictions = demo / "predictions.csv"
    step("Predict without torch", script("numclip-run"), model, data / "test", "-o", predictions)
    step(
        "Judge the exported model: error, calibration, coverage of the intervals",
        *(script("numclip-eval"), "--model", model, "--data", data / "test.csv"),
        *("-o", demo / "evaluation", "--plot"),
    )
    latency = demo / "latency.json"
    step(
        "Measure",
        *(
            sys.executable,
            "benchmarks/latency.py",
            model,
            "--ckpt",
            ckpt,
            "--images",
            data / "test",
        ),
        *("--threads", 1, "--iterations", iterations),
        *("--json", latency, "--plot", demo / "latency.png"),
    )
    csvs = {name: data / f"{name}.csv" for name in ("train", "test")}
    report = demo / "report.html"
    make_report(
        test_csv=csvs["test"],
        predictions_csv=predictions,
        train_csv=csvs["train"],
        model=model,
        output=report,
    )
    if picture is not None:
        make_picture(csvs["test"], predictions, picture)
    entries = read_entries(csvs["test"], predictions)
    median = statistics.median(label for _, label in read_labels(csvs["train"]))
    mae = statistics.fmean(entry.error for entry in entries)
    labels = [label for _, label in read_labels(csvs["test"])]
    constant = statistics.fmean(abs(median - label) for label in labels)
    evaluation = json.loads((demo / "evaluation" / "metrics.json").read_text("utf-8"))
    rows = summary(mae, constant, ckpt, model, json.loads(latency.read_text("utf-8")), evaluation)
    click.secho(f"\n== Done in {time.perf_counter() - started:.0f} s", bold=True)
    for name, value in rows:
        click.echo(f"{name:<44} {value}")
    click.echo(f"{'report':<44} {report}")
    if check and not mae <= TARGET * constant:  # nan, where an image has no prediction, fails
        sys.exit(f"test MAE {mae:.2f} is above {TARGET:.0%} of the constant predictor's")


def train_flags(data: Path, ckpt: Path, epochs: int) -> list[object]:
    """Return the flags of `numclip-train`: everything learns, for nothing is pretrained."""
    clip = (HERE / "clip.json").relative_to(ROOT)
    return [
        *("--train", data / "train.csv", "--val", data / "val.csv", "--task", "quality"),
        *("--backbone", clip, "--resize", 64, "--regressor", "bounded", "-o", ckpt),
        *("--epochs", epochs, "--batch-size", 32, "--optimizer", "adamw", "--weight-decay", 0.01),
        *("--schedule", "cosine", "--warmup-steps", 50),
        *("--loss-mode", "corrected", "--regression-weight", 0.15),
        *(
            flag
            for part in ("image", "context", "rank", "adapter", "regressor")
            for flag in (f"--lr-{part}", 3e-3)
        ),
        *("--lr-text", 0, "--workers", 1),
    ]


def summary(
    mae: float,
    constant: float,
    ckpt: Path,
    model: Path,
    latency: dict[str, Any],
    evaluation: dict[str, Any],
) -> list[tuple[str, str]]:
    """Return the rows of the final table."""
    first = {row["name"]: row["first_prediction_s"] for row in latency["rows"]}
    rows = [
        ("test MAE, on photos never seen", f"{mae:.2f}"),
        ("  of a constant (median) predictor", f"{constant:.2f}, ratio {mae / constant:.2f}"),
        ("right coarse bin", f"{evaluation['bin']['acc_max']:.1%}"),
        *(
            (f"{row['stated']:.0%} interval holds the true number", f"{row['coverage']:.1%}")
            for row in evaluation["intervals"]
            if row["stated"] == 0.9
        ),
        ("checkpoint", f"{ckpt.stat().st_size / 1e6:.2f} MB"),
        ("ONNX model, text tower folded away", f"{model.stat().st_size / 1e6:.2f} MB"),
        *((f"start to first prediction, {name}", f"{took:.2f} s") for name, took in first.items()),
    ]
    for row in latency["rows"]:
        total = row["stages_ms"]["total"]
        rows.append(
            (
                f"latency p50 / p99, {row['name']}, batch {row['batch']}",
                f"{total['p50']:.2f} / {total['p99']:.2f} ms",
            )
        )
    return rows


if __name__ == "__main__":
    main()
