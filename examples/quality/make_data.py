"""Make the photo-quality data set: crops of real photos, degraded by a known severity.

The photos ship inside scikit-image and scikit-learn. Training, validation and test use different
photos. A crop is first shrunk (so that it is sharp at the size the model sees), then degraded at
that size by blur, noise or JPEG compression; the label is the severity, 0 to 100.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from numclip_runtime.console import FILE
from numclip_runtime.preprocess import load_rgb
from numclip_runtime.system import usable_cores

SIDE = 64  # pixels: what the model sees, so nothing is resampled after the degradation
MIN_CHANGE = 4.0  # mean grey levels: a block that changes less shows no blur
MIN_SHARE = 0.6  # of a crop's blocks
PHOTOS = {
    "train": (
        "skimage/astronaut.png",
        "skimage/brick.png",
        "skimage/camera.png",
        "skimage/grass.png",
        "skimage/ihc.png",
        "skimage/motorcycle_left.png",
        "skimage/page.png",
        "skimage/text.png",
        "sklearn/china.jpg",
    ),
    "val": ("skimage/coins.png", "skimage/coffee.png"),
    "test": ("skimage/chelsea.png", "skimage/gravel.png", "sklearn/flower.jpg"),
}
COUNTS = {"train": 8000, "val": 480, "test": 480}
CHUNK = 500  # pictures that one process makes, with random numbers of their own
Row: TypeAlias = tuple[str, float]  # path and label


def photo_path(name: str) -> Path:
    """Return where a photo lies inside the installed package that ships it."""
    package, file = name.split("/")
    if package == "skimage":
        import skimage

        return Path(skimage.__file__).parent / "data" / file
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / file


def sharp_share(image: Image.Image) -> float:
    """Return the share of an image's 8 x 8 blocks that a slight blur changes visibly."""
    grey = image.convert("L")
    blurred = grey.filter(ImageFilter.GaussianBlur(0.8))
    change = np.abs(np.asarray(grey, np.float32) - np.asarray(blurred, np.float32))
    blocks = change.reshape(8, SIDE // 8, 8, SIDE // 8).mean((1, 3))
    return float((blocks > MIN_CHANGE).mean())


def crops(photo: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yield random square crops with enough texture, shrunk to SIDE x SIDE, without end."""
    longest = min(photo.size)
    for _ in range(100_000):
        side = int(rng.uniform(min(1.6 * SIDE, 0.8 * longest), min(longest, 5 * SIDE)))
        left = int(rng.integers(0, photo.width - side + 1))
        top = int(rng.integers(0, photo.height - side + 1))
        box = (left, top, left + side, top + side)
        crop = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
        if sharp_share(crop) >= MIN_SHARE:
            yield crop
    raise RuntimeError("a photo without texture")


def vary(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn, mirror, recolour and relight a crop: more scenes out of few training photos."""
    pixels = np.asarray(image)[..., rng.permutation(3)] / 255
    pixels = np.rot90(pixels, int(rng.integers(4)))
    if rng.random() < 0.3:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, axis=2)
    low, high = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
    pixels = low + (high - low) * pixels ** rng.uniform(0.6, 1.6)
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))


def degrade(
    image: Image.Image, severity: float, kind: str, rng: np.random.Generator
) -> Image.Image:
    """Degrade an image at the size that it has.

    Args:
        image: RGB, of any size.
        severity: 0 (untouched) to 100 (very annoying).
        kind: "blur", "noise" or "jpeg".
        rng: Source of the noise.
    """
    s = severity / 100
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(4.0 * s**1.2)) if s else image
    if kind == "noise":
        noise = rng.normal(0, 70 * s**1.2, (image.height, image.width, 3))
        noisy: npt.NDArray[np.float64] = np.asarray(image) + noise
        return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    quality = round(95 * (3 / 95) ** (s**0.8))  # 95 down to 3: each step as visible as the last
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return load_rgb(buffer)


def make_pictures(folder: Path, split: str, first: int, last: int, seed: int) -> list[Row]:
    """Write the pictures `first` to `last` - 1 of a split, and return their rows of its CSV."""
    rng = np.random.default_rng([seed, sorted(PHOTOS).index(split), first // CHUNK])
    sources = [(Path(name).stem, crops(load_rgb(photo_path(name)), rng)) for name in PHOTOS[split]]
    rows: list[Row] = []
    for i in range(first, last):
        stem, source = sources[i % len(sources)]
        kind = ("blur", "noise", "jpeg")[int(rng.integers(3))]
        severity = round(float(rng.uniform(0, 100)), 1)
        name = f"{split}/{i:04d}-{stem}-{kind}.png"
        crop = next(source)
        if split == "train":
            crop = vary(crop, rng)
        degrade(crop, severity, kind, rng).save(folder / name, compress_level=1)
        rows.append((name, severity))
    return rows


def make_split(folder: Path, split: str, count: int, seed: int, pool: Executor) -> None:
    """Write `count` images and `SPLIT.csv` (columns path,label) under `folder`."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    chunks = [(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    jobs = [pool.submit(make_pictures, folder, split, *chunk, seed) for chunk in chunks]
    with (folder / f"{split}.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "label"))
        for job in jobs:
            table.writerows(job.result())


@click.command()
@click.argument("folder", type=FILE)
@click.option("--scale", type=float, default=1.0, help="Share of the full number of images.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, scale: float, seed: int) -> None:
    """Write train, validation and test images and CSV files under FOLDER."""
    with ProcessPoolExecutor(usable_cores()) as pool:
        for split, count in COUNTS.items():
            make_split(folder, split, max(8, round(count * scale)), seed, pool)
            click.echo(f"{folder / split}.csv: {max(8, round(count * scale))} images")


if __name__ == "__main__":
    main()
