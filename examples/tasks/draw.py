"""Three made tasks whose numbers are exact: a gauge, a count, and the level in a glass.

    python -m examples.tasks.draw gauge data/     # images, train.csv, val.csv, test.csv, task.toml

The pictures vary in place, size, colours, light and noise, so that a model has something to learn.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 96
SCALE = 3  # drawn larger and reduced: smooth edges
Draw = Callable[[np.random.Generator], tuple[Image.Image, float]]


@dataclass(frozen=True)
class MadeTask:
    """A drawing and its task file."""

    draw: Draw  # returns an RGB image of SIDE x SIDE pixels and its number
    toml: str


def gauge(rng: np.random.Generator) -> tuple[Image.Image, float]:
    """Draw a pressure gauge; its needle shows 0 to 10 bar."""
    value = round(float(rng.uniform(0, 10)), 2)
    image, pen = _canvas(rng)
    x, y = _near(rng, 0.5, 0.06), _near(rng, 0.5, 0.06)
    radius = SIDE * SCALE * rng.uniform(0.32, 0.42)
    tilt = rng.uniform(-8, 8)
    face, ink = _light(rng), _dark(rng)
    pen.ellipse(_box(x, y, radius), fill=face, outline=ink, width=3 * SCALE)

    def point(number: float, share: float) -> tuple[float, float]:
        turn = math.radians(135 + tilt + 27 * number)  # 270 degrees, clockwise from the lower left
        return x + share * radius * math.cos(turn), y + share * radius * math.sin(turn)

    for number in range(11):
        width = (2 if number % 5 == 0 else 1) * SCALE
        pen.line([point(number, 0.78), point(number, 0.92)], fill=ink, width=width)
    needle = tuple(int(c) for c in rng.integers(0, 120, 3) + np.array([rng.integers(0, 130), 0, 0]))
    pen.line([point(value, -0.15), point(value, 0.7)], fill=needle, width=2 * SCALE)
    pen.ellipse(_box(x, y, radius * 0.08), fill=needle)
    return _photo(image, rng), value


def count(rng: np.random.Generator) -> tuple[Image.Image, float]:
    """Draw 0 to 20 berries that do not touch."""
    number = int(rng.integers(0, 21))
    image, pen = _canvas(rng)
    colour = _dark(rng)
    cells = rng.permutation(36)[:number]
    for row, column in zip(*np.divmod(cells, 6), strict=True):
        x, y = ((c + 0.5 + rng.uniform(-0.15, 0.15)) / 6 * SIDE * SCALE for c in (column, row))
        radius = SIDE * SCALE * rng.uniform(0.035, 0.055)
        pen.ellipse(_box(x, y, radius), fill=colour)
    return _photo(image, rng), float(number)


def level(rng: np.random.Generator) -> tuple[Image.Image, float]:
    """Draw a glass that is 0 to 100 % full."""
    value = round(float(rng.uniform(0, 100)), 1)
    image, pen = _canvas(rng)
    x, foot = _near(rng, 0.5, 0.1), SIDE * SCALE * rng.uniform(0.8, 0.92)
    height, half = SIDE * SCALE * rng.uniform(0.5, 0.7), SIDE * SCALE * rng.uniform(0.12, 0.22)
    top = foot - height
    surface = foot - height * value / 100
    pen.rectangle([x - half, surface, x + half, foot], fill=_dark(rng))
    pen.line([(x - half, top), (x - half, foot), (x + half, foot), (x + half, top)],
             fill=_light(rng), width=2 * SCALE)  # fmt: skip
    return _photo(image, rng), value


TASKS = {
    "gauge": MadeTask(
        gauge,
        'name = "gauge"\nunit = "bar"\nbin_edges = [0, 2, 4, 6, 8, 10]\n'
        'phrases = ["very low", "low", "medium", "high", "very high"]\n'
        'context = "the pressure on the gauge is"\n',
    ),
    "count": MadeTask(
        count,
        'name = "count"\nunit = "berries"\nbin_edges = [0, 1, 5, 10, 15, 21]\n'
        'phrases = ["no", "a few", "several", "many", "very many"]\n'
        'context = "a photo with berries, of which there are"\n',
    ),
    "level": MadeTask(
        level,
        'name = "level"\nunit = "%"\nbin_edges = [0, 20, 40, 60, 80, 100]\n'
        'phrases = ["nearly empty", "less than half full", "half full", "well filled", "full"]\n'
        'context = "the glass is"\n',
    ),
}


def write_task(
    name: str, folder: Path, *, train: int = 400, val: int = 100, test: int = 100, seed: int = 0
) -> None:
    """Write images, train.csv, val.csv, test.csv and task.toml of a made task.

    Args:
        name: One of TASKS.
        folder: Made if it does not exist.
        train: Images to learn from.
        val: Images to choose the epoch and to fit the intervals with.
        test: Images to judge the model on.
        seed: Of all that is random.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(TASKS[name].toml, "utf-8")
    for part, images in (("train", train), ("val", val), ("test", test)):
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label"])
            for index in range(images):
                image, label = TASKS[name].draw(rng)
                path = f"images/{part}-{index:03}.png"
                image.save(folder / path)
                rows.writerow([path, f"{label:g}"])


def _canvas(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a background with a gradient, and what draws on it."""
    low, high = rng.integers(90, 250, (2, 3))
    ramp = np.linspace(low, high, SIDE * SCALE)[:, None].repeat(SIDE * SCALE, 1)
    image = Image.fromarray(ramp.astype(np.uint8))
    return image, ImageDraw.Draw(image)


def _photo(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture as a camera might see it: smaller, soft, in some light, noisy."""
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noise = rng.normal(0, rng.uniform(1, 8), (SIDE, SIDE, 3))
    pixels = np.asarray(small) * rng.uniform(0.6, 1.0) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _near(rng: np.random.Generator, share: float, spread: float) -> float:
    return float(SIDE * SCALE * (share + rng.uniform(-spread, spread)))


def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _light(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(c) for c in rng.integers(205, 256, 3))


def _dark(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(c) for c in rng.integers(0, 90, 3))


@click.command()
@click.argument("name", type=click.Choice(list(TASKS)))
@click.argument("folder", type=click.Path(path_type=Path))
def main(name: str, folder: Path) -> None:
    """Write a made task into a folder."""
    if (folder / "train.csv").exists():
        shutil.rmtree(folder / "images", ignore_errors=True)
    write_task(name, folder)
    click.echo(f"{folder}: images, train.csv, val.csv, test.csv and task.toml of {name}")


if __name__ == "__main__":
    main()
