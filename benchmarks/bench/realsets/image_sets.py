"""Three real image sets with ordered labels, split so that no group is in two parts."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from benchmarks.bench.machine.environment import REPOSITORY
from numclip_runtime import Task
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path
from numclip_runtime.preprocess import load_rgb

if TYPE_CHECKING:
    from numclip.data.samples import Sample

PARTS = ("train", "val", "test")
SETS_FOLDER = REPOSITORY.parent / "shared" / "data"  # where the sets lie, if nobody says


@dataclass(frozen=True)
class Reference:
    """A simple method's numbers on the test part, quoted from the set's README."""

    label: str
    mae: float  # label units
    rmse: float  # label units
    spearman: float


@dataclass(frozen=True)
class RealSet:
    """A set: a folder with `all.csv` (path, label, split, group) and its images."""

    task: Task  # named as the folder
    about: str
    judged_by: Literal["mae", "rmse"]
    references: tuple[Reference, ...]
    margin: bool  # training crops may move; False: a crop would change the label
    epochs: int  # from scratch: about 14,000 images in all, to save time; more would help

    @property
    def name(self) -> str:
        """Name of the set, which is its folder's."""
        return self.task.name


SETS = (
    RealSet(
        Task(
            "tomato-freshness",
            "grades",
            (0, 2, 4, 6, 8, 10),
            ("fresh", "slightly aged", "shrivelled", "mouldy", "rotten"),
            "a photo of a tomato that is",
        ),
        "grade 0 (fresh) to 9 (rotten); 12 batches, 3 of them for the test",
        "mae",
        (
            Reference("ridge, hand-made features", 1.810, 2.399, 0.625),
            Reference("SVR, hand-made features", 1.987, 2.490, 0.584),
            Reference("boosted trees, hand-made features", 1.749, 2.260, 0.671),
        ),
        margin=True,
        epochs=12,
    ),
    RealSet(
        Task(
            "pv-cells",
            "grades",
            (0, 1, 2, 3, 4),
            ("intact", "possibly damaged", "probably damaged", "damaged"),
            "an electroluminescence image of a solar cell that is",
            prediction="expected",
        ),
        "defect grade 0 to 3; 20 blocks of neighbouring cells",
        "rmse",
        (
            Reference("ridge, hand-made features", 1.003, 1.235, 0.188),
            Reference("SVR, crack features", 0.822, 1.164, 0.357),
            Reference("boosted trees, crack features", 1.006, 1.233, 0.191),
        ),
        margin=True,
        epochs=8,
    ),
    RealSet(
        Task(
            "blood-cells",
            "cells",
            (0, 15, 20, 25, 30, 45),
            ("very few cells", "few cells", "some cells", "many cells", "very many cells"),
            "a microscope picture of blood with",
        ),
        "number of red cells, 9 to 42; 19 runs of slides",
        "mae",
        (
            Reference("ridge, hand-made features", 4.888, 6.379, 0.656),
            Reference("SVR, hand-made features", 5.328, 6.050, 0.667),
            Reference("boosted trees, hand-made features", 4.149, 5.196, 0.602),
        ),
        margin=False,
        epochs=48,
    ),
)


def whole_numbers(task: Task) -> Task:
    """Return the task with one bin per whole number that is a label of it."""
    low, high = int(task.bin_edges[0]), int(task.bin_edges[-1])
    high += 0 if task.labels_are_classes else 1  # the upper end is a label as well
    numbers = range(low, high)
    return replace(
        task,
        bin_edges=tuple(range(low, high + 1)),
        phrases=tuple(str(number) for number in numbers),
        prediction="expected",
    )


def missing(image_set: RealSet, data: Path) -> str:
    """Return a sentence about a set that is not there; "" where it is."""
    table = data / image_set.name / "all.csv"
    return "" if table.is_file() else f"{image_set.name}: skipped, {table} is missing."


def read_set(image_set: RealSet, data: Path) -> dict[str, list[Sample]]:
    """Return the samples of "train", "val" and "test", with their groups.

    Raises:
        UsageError: if the table cannot be read, or a group is in two parts.
    """
    from numclip.data.readers import read_samples

    table = data / image_set.name / "all.csv"
    samples = read_samples(table, image_set.task, group_column="group")
    with table.open(encoding="utf-8", newline="") as file:
        parts = [row["split"] for row in csv.DictReader(file)]
    places = Counter(
        group for group, _ in {(s.group, p) for s, p in zip(samples, parts, strict=True)}
    )
    if shared := [group for group, count in places.items() if count > 1]:
        raise UsageError(f"{table}: group {shared[0]!r} is in several parts.")
    return {
        name: [sample for sample, part in zip(samples, parts, strict=True) if part == name]
        for name in PARTS
    }


def prepare(image_set: RealSet, data: Path, work: Path, side: int) -> Path:
    """Shrink a set's images once, as `--resize` would in each epoch; return the folder.

    Args:
        image_set: Set.
        data: Folder of the sets; stays as it is.
        work: Folder that the copies go to.
        side: Pixels; images are squashed to squares with the same filter as in training.

    Returns:
        Folder with train.csv, val.csv and test.csv (path, label, group).
    """
    from numclip.data.samples import write_csv

    folder = work / image_set.name / str(side)
    done = folder / "complete.json"
    if done.is_file():
        return folder
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for part, samples in read_set(image_set, data).items():
        moved = []
        for sample in samples:
            path = images / f"{sample.path.stem}.png"
            small = load_rgb(sample.path).resize((side, side), Image.Resampling.BILINEAR)
            small.save(path, compress_level=1)
            moved.append(replace(sample, path=path))
        write_csv(folder / f"{part}.csv", moved)
        sizes[part] = len(moved)
    with atomic_path(done) as temporary:
        temporary.write_text(json.dumps(sizes), "utf-8")
    return folder
