"""Pictures whose impairment is seen at full resolution, made of pieces of real photos.

A piece is shrunk so that it is sharp at its new size (the photos themselves are soft, noisy or
compressed at full resolution), mirrored, recoloured, and sometimes out of focus, as backgrounds
are. It is then degraded by blur, noise, JPEG or several of them in this order, as in a camera; the
label is the severity, 0 to 100. Training sees single pieces. A picture for calibration or test has
one piece for each fragment that the model reads, so that only the impairment is common to them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from examples.quality import make_data
from examples.quality.make_data import SIDE, degrade, photo_path, sharp_share, vary
from numclip_runtime.console import FILE
from numclip_runtime.preprocess import load_rgb
from numclip_runtime.system import usable_cores

KINDS = ("blur", "noise", "jpeg")  # in the order in which a camera causes them
# Not the demo's photos that are soft even when shrunk, and one whose licence is stated nowhere;
# others that are compressed, and so have to be shrunk more
LEFT_OUT = ("skimage/page.png", "skimage/text.png", "skimage/motorcycle_left.png")
MORE = ("skimage/hubble_deep_field.jpg", "skimage/retina.jpg", "skimage/rocket.jpg")
PHOTOS = {
    "train": (*(name for name in make_data.PHOTOS["train"] if name not in LEFT_OUT), *MORE),
    "val": make_data.PHOTOS["val"],
    "test": make_data.PHOTOS["test"],
}
# Pieces are learned from; mosaics of pieces are what the model reads in the end
COUNTS = {"test": 400, "train": 6000, "val": 400, "calibration": 400}
PIECES, MOSAICS = ("train", "val"), {"test": "test", "calibration": "val"}  # whose photos
FRAGMENTS = 3  # pieces along a side of the mosaic, whose mean the model reads
CELL = 88  # pixels of a cell's side: a fragment of 64 has room for a random place
MARGIN = 16  # pixels that are cut off after degrading, where blur reaches the border of a piece
TILE = (120, 240)  # pixels of a piece's side in a wall
SHRINK = (1.3, 3.0)  # of a photo; one that is a JPEG by at least the middle of it
OUT_OF_FOCUS = 0.2  # share of the pieces
ONE_PHOTO = 0.5  # share of the pictures whose pieces are all of one photo
SHARP_SHARE, TRIES = 0.3, 8  # of a piece for training, see `make_data.sharp_share`
FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.HAMMING)
# Severities add up as the visibility of independent signals does (exponent 4: Watson, "DCTune",
# 1993), so the strongest one decides.
POOLING = 4
MIXED = 0.4  # share of the pictures with two or three kinds


@dataclass(frozen=True)
class Photo:
    """A photo to cut pieces out of."""

    image: Image.Image
    least: float = SHRINK[0]  # by how much its pieces are shrunk at least, so that they are sharp


@cache
def load_photos(split: str) -> list[Photo]:
    """Return the photos of "train", "val" or "test"; not to be changed."""
    photos = []
    for name in PHOTOS[split]:
        least = sum(SHRINK) / 2 if name.endswith(".jpg") else SHRINK[0]
        photos.append(Photo(load_rgb(photo_path(name)), least))
    return photos


def piece(photo: Photo, side: int, rng: np.random.Generator) -> Image.Image:
    """Cut a random square out of a photo and shrink it to `side` x `side` pixels."""
    image, least, longest = photo.image, photo.least * side, min(photo.image.size)
    from_side = float(rng.uniform(min(least, longest), min(SHRINK[1] * side, longest)))
    left, top = (float(rng.uniform(0, length - from_side)) for length in image.size)
    box = (left, top, left + from_side, top + from_side)
    out = image.resize((side, side), FILTERS[int(rng.integers(len(FILTERS)))], box=box)
    if rng.random() < OUT_OF_FOCUS:
        out = out.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 8))))
    return out


def wall(photos: Sequence[Photo], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a large picture, made of pieces of photos: there is no larger photo to test with.

    Args:
        photos: To choose from.
        size: Width and height, pixels.
        rng: Source of all choices.
    """
    out, top = Image.new("RGB", size), -int(rng.integers(TILE[0]))
    while top < size[1]:
        side, left = int(rng.integers(*TILE)), -int(rng.integers(TILE[0]))
        while left < size[0]:
            out.paste(piece(photos[int(rng.integers(len(photos)))], side, rng), (left, top))
            left += side
        top += side
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


def mosaic_picture(split: str, parts: dict[str, float], rng: np.random.Generator) -> Image.Image:
    """Return a mosaic of pieces of a split's photos, each degraded by itself."""
    photos, out = load_photos(split), Image.new("RGB", (FRAGMENTS * CELL, FRAGMENTS * CELL))
    of_one = rng.random() < ONE_PHOTO
    photo = photos[int(rng.integers(len(photos)))]
    for row, column in np.ndindex(FRAGMENTS, FRAGMENTS):
        if not of_one:
            photo = photos[int(rng.integers(len(photos)))]
        tile = piece(photo, CELL + 2 * MARGIN, rng)
        tile = cell_of(impaired(tile, parts, rng), rng)
        out.paste(tile, (column * CELL, row * CELL))
    return out


def single_piece(split: str, parts: dict[str, float], rng: np.random.Generator) -> Image.Image:
    """Return one degraded piece of a split's photos, CELL x CELL; it shows some texture.

    Those for training are also turned, mirrored and recoloured, see `make_data.vary`.
    """
    photos = load_photos(split)
    photo = photos[int(rng.integers(len(photos)))]
    for _ in range(TRIES):
        tile = piece(photo, CELL + 2 * MARGIN, rng)
        if sharp_share(tile.crop((28, 28, 28 + SIDE, 28 + SIDE))) >= SHARP_SHARE:
            break
    tile = vary(tile, rng) if split == "train" else tile
    return cell_of(impaired(tile, parts, rng), rng)


def cell_of(tile: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut the margin off a degraded piece; JPEG's blocks then begin anywhere."""
    left, top = (MARGIN + int(rng.integers(-8, 9)) for _ in range(2))
    return tile.crop((left, top, left + CELL, top + CELL))


def make_picture(folder: Path, split: str, seed: int, index: int) -> tuple[str, float]:
    """Write one picture; return its path under `folder` and its label."""
    rng = np.random.default_rng([seed, list(COUNTS).index(split), index])
    parts = severities(rng)
    name = f"{split}/{index:05d}-{'-'.join(parts)}.png"
    picture = (
        single_piece(split, parts, rng)
        if split in PIECES
        else mosaic_picture(MOSAICS[split], parts, rng)
    )
    picture.save(folder / name, compress_level=1)
    return name, round(total_severity(parts), 1)


def make_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Write `count` pictures and `SPLIT.csv` (columns path,label) under `folder`."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    make = partial(make_picture, folder, split, seed)
    with ProcessPoolExecutor(usable_cores()) as pool:
        rows = list(pool.map(make, range(count), chunksize=20))
    with (folder / f"{split}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label"), *rows])


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
