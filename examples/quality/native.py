"""Make the packaged model "quality": one command, from the photos that two packages ship.

Data, training, export and test, each the command that a user would type; then the model, its card
and a record of how it was made are put into the runtime, where `numclip-run quality photo.jpg`
finds them. The test measures it on photos that training never saw, at 1, 2 and 12 megapixels.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from examples.quality.demo import ROOT, script, step
from examples.quality.native_card import card
from examples.quality.native_data import (
    FRAGMENTS,
    PHOTOS,
    Photo,
    impaired,
    load_photos,
    severities,
    total_severity,
    wall,
)
from numclip_runtime.console import FILE
from numclip_runtime.files import sha256
from numclip_runtime.images.folder import find_images
from numclip_runtime.preprocess import load_rgb

SIZES = {"1 MP": (1152, 864), "2 MP": (1632, 1224), "12 MP": (4000, 3000)}  # width, height
TEST_PICTURES = {"1 MP": 60, "2 MP": 60, "12 MP": 12}
VERSIONS = 2  # of each large photo, impaired in different ways
HOME = ROOT / "runtime" / "numclip_runtime" / "packaged"
# All options of numclip-train but the data and the output. Single pieces are learned from, in
# closed form.
TRAIN = (
    *("--task", "quality", "--backbone", "examples/quality/native.json", "--workers", "0"),
    *("--resize-mode", "fragments", "--normalize", "half", "--head", "probe"),
)
Impaired = tuple[Image.Image, float]  # picture and severity


def read_several(ckpt: Path, csv: Path) -> None:
    """Let a checkpoint that was trained on single pieces read several of them, and calibrate it.

    A probe is linear in the mean of the pieces' features, so it need not learn from several.

    Args:
        ckpt: Changed.
        csv: Mosaics of photos that training has not seen.
    """
    from numclip.checkpoint import load_checkpoint, save_checkpoint
    from numclip.data.readers import read_samples
    from numclip.data.subsets import calibration_split
    from numclip.evaluation.calibration import calibrate
    from numclip.evaluation.metrics import validation_metrics
    from numclip.evaluation.predictions import predictions_of_checkpoint

    single = load_checkpoint(ckpt)
    side = single.model.side * FRAGMENTS
    spec = replace(single.preprocessing, crop=side, resize=side, fragments=FRAGMENTS)
    parts = calibration_split(read_samples(csv, single.task), None, single.task, seed=0)
    several = replace(single, preprocessing=spec, validation_csv=str(csv), validation_root=None)
    metrics = validation_metrics(predictions_of_checkpoint(several, parts.choosing))
    kept = parts.kept or parts.choosing  # with --scale there may be too few to keep any apart
    several, line = calibrate(replace(several, metrics=metrics), kept, tuning=parts.choosing)
    save_checkpoint(ckpt, several)
    click.echo(f"validation MAE {single.metrics['mae']:.2f} of one piece")
    click.echo(f"validation MAE {metrics['mae']:.2f} of {FRAGMENTS**2} pieces; {line}")


def walls(photos: Sequence[Photo], size: tuple[int, int], count: int) -> Iterator[Impaired]:
    """Yield walls of pieces of photos, impaired as a whole."""
    rng = np.random.default_rng(size)
    for _ in range(count):
        parts = severities(rng)
        yield impaired(wall(photos, size, rng), parts, rng), total_severity(parts)


def large_photos(folder: Path, size: tuple[int, int]) -> Iterator[Impaired]:
    """Yield the photos of a folder that are larger than `size`, shrunk to as many pixels, impaired.

    Their own softness, noise and compression, which shrinking does not remove, count as none.
    """
    rng = np.random.default_rng(size)
    for path in find_images([str(folder)]):
        photo = load_rgb(path)
        factor = (size[0] * size[1] / (photo.width * photo.height)) ** 0.5
        if factor > 1:
            continue
        shrunk = photo.resize((round(photo.width * factor), round(photo.height * factor)))
        for _ in range(VERSIONS):
            parts = severities(rng)
            yield impaired(shrunk, parts, rng), total_severity(parts)


def measure(model: Path, pictures: Iterable[Impaired]) -> dict[str, float]:
    """Return the errors of an exported model on impaired pictures.

    Returns:
        images; mae, mae_constant (of always saying the median), in label units; rank_correlation
        (Spearman); coverage (share of labels inside the 90 % interval).
    """
    from scipy.stats import spearmanr

    from numclip.evaluation.metrics import constant_mae
    from numclip_runtime import load

    rows = []
    with load(model) as predictor:
        for picture, label in pictures:
            found = predictor.predict(picture)
            low, high = found.interval or (np.nan, np.nan)
            rows.append((label, found.value, low <= label <= high))
    labels, values, inside = np.array(rows, float).T
    return {
        "images": len(rows),
        "mae": round(float(np.abs(values - labels).mean()), 2),
        "mae_constant": round(constant_mae(labels), 2),
        "rank_correlation": round(float(spearmanr(values, labels).statistic), 3),
        "coverage": round(float(inside.mean()), 3),
    }


def measure_sizes(model: Path, photos: Path | None, scale: float) -> dict[str, dict[str, Any]]:
    """Measure a model at each size on walls of the test photos, and on a folder of large photos."""
    found: dict[str, dict[str, Any]] = {"walls": {}}
    if photos is not None:
        found["photos"] = {}
    for name, size in SIZES.items():
        count = max(4, round(TEST_PICTURES[name] * scale))
        found["walls"][name] = measure(model, walls(load_photos("test"), size, count))
        if photos is not None:
            found["photos"][name] = measure(model, large_photos(photos, size))
        for kind, rows in found.items():
            click.echo(f"{name:>6}, {kind}: {rows[name]}")
    return found


def keep(model: Path, home: Path, found: dict[str, Any]) -> None:
    """Put a model into the runtime, with its card and the record of how it was made."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, home / "quality.onnx")
    record = {
        "made_by": "python -m examples.quality.native",
        "train": TRAIN,
        "photos": PHOTOS,
        "sha256": sha256(model),
        "test": found,
    }
    (home / "quality.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (home / "quality.md").write_text(card(record, model.stat().st_size), "utf-8")


@click.command()
@click.option("--folder", default="demo/native", show_default=True, help="Under the root.")
@click.option("--scale", type=float, default=1.0, help="Share of the full number of pictures.")
@click.option("--photos", type=FILE, help="Also measure on these photos, of 12 MP or more.")
@click.option("--home", type=FILE, default=HOME, help="Where the model is put.")
def main(folder: str, scale: float, photos: Path | None, home: Path) -> None:
    """Make the packaged model "quality"."""
    started = time.perf_counter()
    work = Path(folder)
    (ROOT / work).mkdir(parents=True, exist_ok=True)
    data, ckpt, model = work / "data", work / "checkpoint.pt", work / "quality.onnx"
    step(
        "Make data: pieces of photos at full resolution, degraded",
        *(sys.executable, "-m", "examples.quality.native_data", data, "--scale", scale),
    )
    step(
        "Train",
        *(script("numclip-train"), "--train", data / "train.csv", "--val", data / "val.csv"),
        *(*TRAIN, "-o", ckpt),
    )
    click.secho(f"\n== Read {FRAGMENTS**2} pieces of a photo", bold=True)
    read_several(ROOT / ckpt, ROOT / data / "calibration.csv")
    step("Export", script("numclip-export"), "--ckpt", ckpt, "-o", model)
    step(
        "Judge it on pieces of photos never seen",
        *(script("numclip-eval"), "--model", model, "--data", data / "test.csv"),
        *("-o", work / "evaluation"),
    )
    click.secho("\n== Measure it on large pictures of photos never seen", bold=True)
    keep(ROOT / model, home, measure_sizes(ROOT / model, photos, scale))
    click.secho(f"\n== Done in {time.perf_counter() - started:.0f} s: {home}", bold=True)


if __name__ == "__main__":
    main()
