"""A small model of each real set: a probe on a pretrained tower, trained and exported here."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from benchmarks.bench.realsets.image_sets import RealSet
from benchmarks.bench.realsets.methods import RealRun, Setting, command

# By chance, so that the parts are alike. The sets' own parts are different batches and slides,
# which are another world to a monitor, and rightly so
SHARES = {"train": 0.4, "val": 0.3, "test": 0.3}
SPLIT_SEED = 0


def split_by_chance(image_set: RealSet, data: Path, folder: Path) -> None:
    """Write train.csv, val.csv and test.csv of a set."""
    root = data / image_set.name
    with (root / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = [(str(root / row["path"]), row["label"]) for row in csv.DictReader(file)]
    random.Random(SPLIT_SEED).shuffle(rows)
    start = 0
    for part, share in SHARES.items():
        end = start + round(share * len(rows))
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *rows[start:end]])
        start = end


def images_of(folder: Path, part: str) -> list[str]:
    """Return the paths of a part."""
    with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def trained(image_set: RealSet, data: Path, tower: Path, folder: Path) -> Path:
    """Return the exported model of a set; it is trained where it is missing."""
    model = folder / "model.onnx"
    if model.is_file():
        return model
    from numclip.cli.train import main as train
    from numclip_export.cli import main as export

    folder.mkdir(parents=True, exist_ok=True)
    split_by_chance(image_set, data, folder)
    setting = Setting(folder, tower)
    words = command(RealRun(image_set.name, "probe", SPLIT_SEED), setting)
    at = words.index("--group-column")
    del words[at : at + 2]
    words = [str(folder / word) if word in ("train.csv", "val.csv") else word for word in words]
    checkpoint = folder / "checkpoint.pt"
    train.main([*words, "--restart", "-o", str(checkpoint)], standalone_mode=False)
    # a probe on the solar cells differs by up to 2e-4 grades, which no monitor can see
    export.main(
        ["--ckpt", str(checkpoint), "-o", str(model), "--atol", "0.001"], standalone_mode=False
    )
    checkpoint.unlink()
    return model
