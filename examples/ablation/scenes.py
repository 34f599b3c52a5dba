"""Rendered pictures with exact numbers and vague captions: data for the ablation.

A picture shows 1 to 40 things (a count) and is damaged by 0 to 50 % (a severity). The number is
known; the caption says it as people do, in one of five words, with a person's own idea of where
each word begins. So a CLIP trained on the captions knows the words, and no number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from numclip_runtime import Task

SIDE = 40  # pixels
CELLS = 8  # a side: things stand in cells of 5 x 5 pixels and never hide each other
SHAPES = ("disc", "square", "diamond")
COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 70, 200),
    "yellow": (225, 205, 50),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}
DAMAGES = ("noisy", "blurred", "spotted")
JITTER = 0.35  # spread of a caption's idea of a word's range, in widths of a bin
COUNT = Task(
    "count",
    "things",
    (1, 4, 9, 17, 27, 41),
    ("hardly any things", "a few things", "several things", "many things", "countless things"),
    context="a picture with",
    whole_numbers=True,
)
SEVERITY = Task(
    "severity",
    "%",
    (0, 8, 18, 28, 38, 51),
    ("clean", "slightly damaged", "damaged", "badly damaged", "ruined"),
    context="the picture is",
    whole_numbers=True,
)
TASKS = {task.name: task for task in (COUNT, SEVERITY)}
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A rendered picture and all that is true of it."""

    pixels: Pixels  # (SIDE, SIDE, 3) RGB
    count: int  # 1 to 40
    severity: int  # 0 to 50, %
    shape: str
    colour: str
    ground: str  # colour of the background
    damage: str

    def label(self, task: Task) -> float:
        """Return the number that a task asks for."""
        return float(self.count if task is COUNT else self.severity)


def draw_picture(rng: np.random.Generator) -> Picture:
    """Draw a random picture; count and severity are uniform, so that no bin is favoured."""
    count, severity = int(rng.integers(1, 41)), int(rng.integers(0, 51))
    shape, damage = str(rng.choice(SHAPES)), str(rng.choice(DAMAGES))
    colour, ground = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    image = Image.fromarray(_ground(COLOURS[ground], rng))
    draw = ImageDraw.Draw(image)
    radius = rng.uniform(0.9, 2.2)  # of the picture: the inked area does not give the count away
    for cell in rng.choice(CELLS**2, count, replace=False):
        x, y = (
            (axis + 0.5) * SIDE / CELLS + rng.uniform(-0.4, 0.4) for axis in divmod(cell, CELLS)
        )
        r = radius * rng.uniform(0.85, 1.15)
        fill = tuple(int(c) for c in np.clip(COLOURS[colour] + rng.normal(0, 12, 3), 0, 255))
        _draw_shape(draw, shape, x, y, r, fill)
    pixels = _damage(image, damage, severity / 50, rng)
    return Picture(pixels, count, severity, shape, colour, ground, damage)


def _ground(colour: tuple[int, int, int], rng: np.random.Generator) -> Pixels:
    """Return a background that drifts from one shade to another, (SIDE, SIDE, 3)."""
    slope = rng.normal(0, 12, (2, 3))
    along = np.linspace(-0.5, 0.5, SIDE)[:, None]
    drift = along[:, None] * slope[0] + along * slope[1]  # (SIDE, SIDE, 3)
    shades: Pixels = np.clip(np.asarray(colour) + drift, 0, 255).astype(np.uint8)
    return shades


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, fill: tuple[int, ...]
) -> None:
    if shape == "diamond":
        draw.polygon([(x - r, y), (x, y - r), (x + r, y), (x, y + r)], fill=fill)
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    else:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _damage(image: Image.Image, kind: str, share: float, rng: np.random.Generator) -> Pixels:
    """Damage an image by a share of the worst, 0 to 1."""
    if kind == "blurred":
        image = image.filter(ImageFilter.GaussianBlur(2.0 * share))
    pixels = np.asarray(image, np.float64)
    if kind == "noisy":
        pixels = pixels + rng.normal(0, 70 * share, pixels.shape)
    elif kind == "spotted":
        spots = rng.random(pixels.shape[:2]) < 0.35 * share
        pixels = np.where(spots[..., None], rng.uniform(0, 255, (*spots.shape, 1)), pixels)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def word(task: Task, number: float, rng: np.random.Generator) -> str:
    """Return the phrase that a person would use for a number; near an edge, people differ."""
    middles = np.asarray(task.bin_edges)
    position = np.interp(number + 0.5, middles, np.arange(len(middles)))  # in bins
    return task.phrases[int(np.clip(position + rng.normal(0, JITTER), 0, task.num_bins - 1e-6))]


def caption(picture: Picture, rng: np.random.Generator) -> str:
    """Return a caption: some speak of the count, some of the damage, some of neither."""
    amount = word(COUNT, picture.count, rng)
    state = word(SEVERITY, picture.severity, rng)
    things = f"{picture.colour} {picture.shape}s"
    many = amount.replace("things", things if rng.random() < 0.5 else "things")
    ground = f" on {picture.ground}" if rng.random() < 0.25 else ""
    return str(
        rng.choice(
            (
                f"a picture with {many}{ground}.",
                f"the picture is {state}.",
                f"{many}{ground}, {state}.",
                f"a {picture.damage} picture with {things}{ground}.",
            ),
            p=(0.35, 0.25, 0.3, 0.1),
        )
    )


def draw_pictures(count: int, seed: int) -> list[Picture]:
    """Draw pictures that depend only on the seed."""
    rng = np.random.default_rng(seed)
    return [draw_picture(rng) for _ in range(count)]
