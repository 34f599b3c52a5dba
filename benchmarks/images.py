"""The images that a run reads: a given folder, or photo-like files made on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from numclip_runtime.files import find_images
from numclip_runtime.preprocess import load_rgb

COUNT = 16
SIZE = (640, 480)  # width, height, pixels
QUALITY = 90
SEED = 0
_PROBED = 16  # images opened to learn their size: decoding time depends on it


@dataclass(frozen=True)
class ImageSet:
    """Image files, and what a report says about them."""

    paths: list[str]
    description: dict[str, Any]  # {"source", "name", "count", "megapixels"}

    def __str__(self) -> str:
        text = "{count} {source} images ({name}), {megapixels:.2f} megapixels"
        return text.format(**self.description)


@contextmanager
def open_images(folder: Path | None) -> Iterator[ImageSet]:
    """Give the images of a folder or, for None, synthetic ones that are deleted afterwards.

    Raises:
        UsageError: if the folder holds no image.
        ImageError: if one of the first images cannot be read.
    """
    if folder is not None:
        yield _describe(find_images([str(folder)]), "given", folder.resolve().name)
        return
    with tempfile.TemporaryDirectory(prefix="numclip-latency-") as temporary:
        name = f"{SIZE[0]}x{SIZE[1]} JPEG, quality {QUALITY}, gradients plus noise, seed {SEED}"
        yield _describe(write_synthetic(Path(temporary)), "synthetic", name)


def write_synthetic(
    folder: Path, *, count: int = COUNT, seed: int = SEED, size: tuple[int, int] = SIZE
) -> list[str]:
    """Write photo-like JPEGs (smooth colour gradients plus sensor-like noise) into a folder."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        corners = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 6, (size[1], size[0], 3))  # (H, W, 3)
        image = Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        path = folder / f"{i:02}.jpg"
        image.save(path, quality=QUALITY)
        paths.append(str(path))
    return paths


def _describe(paths: list[str], source: str, name: str) -> ImageSet:
    sizes = [load_rgb(path).size for path in paths[:_PROBED]]
    megapixels = median(width * height for width, height in sizes) / 1e6
    facts = {"source": source, "name": name, "count": len(paths), "megapixels": megapixels}
    return ImageSet(paths, facts)
