"""Pictures whose impairment is seen at full resolution, made of pieces of real photos.

A piece is shrunk so that it is sharp at its new size (the photos themselves are soft, noisy or
compressed at full resolution), mirrored, recoloured, and sometimes out of focus, as backgrounds
are. It is then degraded by blur, noise, JPEG or several of them in this order, as in a camera; the
label is the severity, 0 to 100. A picture for training has one piece for each fragment that the
model sees, so that nothing but the impairment is common to them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from examples.quality import make_data
from examples.quality.make_data import degrade, photo_path, vary
from numclip_runtime.console import FILE
from numclip_runtime.preprocess import load_rgb

KINDS = ("blur", "noise", "jpeg")  # in the order in which a camera causes them
SOFT = ("skimage/page.png", "skimage/text.png")  # even when shrunk
# The demo's photos, and others that are compressed, and so have to be shrunk more
PHOTOS = {
    "train": (
        *(name for name in make_data.PHOTOS["train"] if name not in SOFT),
        "skimage/hubble_deep_field.jpg",
        "skimage/retina.jpg",
    ),
    "val": (*make_data.PHOTOS["val"], "skimage/rocket.jpg"),
    "test": make_data.PHOTOS["test"],
}
COUNTS = {"train": 4000, "val": 400, "test": 400}
CELLS = 3  # a side of a picture for training: the model's fragments
CELL = 88  # pixels of a cell's side: a fragment of 64 has room for a random place
MARGIN = 16  # pixels that are cut off after degrading, where blur reaches the border of a piece
SHRINK = (1.6, 3.0)  # of a photo; one that is a JPEG by at least the middle of it
OUT_OF_FOCUS = 0.2  # share of the pieces
ONE_PHOTO = 0.5  # share of the pictures whose pieces are all of one photo
FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.HAMMING)
# Severities add up as the visibility of independent signals does (exponent 4: Watson, "DCTune",
# 1993), so the strongest one decides.
POOLING = 4
MIXED = 0.4  # share of the pictures with two or three kinds


def load_photos(split: str) -> list[Image.Image]:
    """Return the photos of "train", "val" or "test"."""
    photos = []
    for name in PHOTOS[split]:
        photo = load_rgb(photo_path(name))
        photo.info["shrink"] = max(SHRINK[0], sum(SHRINK) / 2 if name.endswith(".jpg") else 0)
        photos.append(photo)
    return photos


def piece(photo: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Cut a random square out of a photo and shrink it to `side` x `side` pixels."""
    least, longest = photo.info["shrink"] * side, min(photo.size)
    from_side = float(rng.uniform(min(least, longest), min(SHRINK[1] * side, longest)))
    left, top = (float(rng.uniform(0, length - from_side)) for length in photo.size)
    box = (left, top, left + from_side, top + from_side)
    out = photo.resize((side, side), FILTERS[int(rng.integers(len(FILTERS)))], box=box)
    if rng.random() < OUT_OF_FOCUS:
        out = out.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 8))))
    return out


def severities(rng: np.random.Generator) -> dict[str, float]:
    """Draw one kind or several, whose total severity is even from 0 to 100."""
    total = float(rng.uniform(0, 100))
    count = 1 if rng.random() >= MIXED else int(rng.integers(2, len(KINDS) + 1))
    kinds = [KINDS[i] for i in sorted(rng.choice(len(KINDS), count, replace=False).tolist())]
    shares: npt.NDArray[np.float64] = rng.uniform(0.2, 1, count)
    shares /= np.sum(shares**POOLING) ** (1 / POOLING)
    return dict(zip(kinds, (total * shares).tolist(), strict=True))


def total_severity(parts: dict[str, float]) -> float:
    """Return the severity of several impairments together."""
    return float(sum(part**POOLING for part in parts.values()) ** (1 / POOLING))


def impaired(image: Image.Image, parts: dict[str, float], rng: np.random.Generator) -> Image.Image:
    """Degrade a picture by each kind at its severity, in the order of `KINDS`."""
    for kind in KINDS:
        if kind in parts:
            image = degrade(image, parts[kind], kind, rng)
    return image


def training_picture(
    photos: Sequence[Image.Image],
    parts: dict[str, float],
    rng: np.random.Generator,
    *,
    varied: bool,
) -> Image.Image:
    """Return a picture of CELLS x CELLS pieces, each degraded by itself.

    Args:
        photos: To choose from.
        parts: Severity by kind.
        rng: Source of all choices.
        varied: Turn, mirror and recolour the pieces, see `make_data.vary`.
    """
    out = Image.new("RGB", (CELLS * CELL, CELLS * CELL))
    of_one = rng.random() < ONE_PHOTO
    photo = photos[int(rng.integers(len(photos)))]
    for row, column in np.ndindex(CELLS, CELLS):
        if not of_one:
            photo = photos[int(rng.integers(len(photos)))]
        tile = piece(photo, CELL + 2 * MARGIN, rng)
        tile = impaired(vary(tile, rng) if varied else tile, parts, rng)
        left, top = (MARGIN + int(rng.integers(-8, 9)) for _ in range(2))  # JPEG's blocks shift
        tile = tile.crop((left, top, left + CELL, top + CELL))
        out.paste(tile, (column * CELL, row * CELL))
    return out


def make_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Write `count` pictures and `SPLIT.csv` (columns path,label) under `folder`."""
    rng = np.random.default_rng([seed, sorted(PHOTOS).index(split)])
    (folder / split).mkdir(parents=True, exist_ok=True)
    photos = load_photos(split)
    with (folder / f"{split}.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "label"))
        for i in range(count):
            parts = severities(rng)
            picture = training_picture(photos, parts, rng, varied=split == "train")
            name = f"{split}/{i:05d}-{'-'.join(parts)}.png"
            picture.save(folder / name, compress_level=1)
            table.writerow((name, round(total_severity(parts), 1)))


@click.command()
@click.argument("folder", type=FILE)
@click.option("--scale", type=float, default=1.0, help="Share of the full number of pictures.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, scale: float, seed: int) -> None:
    """Write training, validation and test pictures and CSV files under FOLDER."""
    for split, count in COUNTS.items():
        count = max(8, round(count * scale))
        make_split(folder, split, count, seed)
        click.echo(f"{folder / split}.csv: {count} pictures")


if __name__ == "__main__":
    main()
