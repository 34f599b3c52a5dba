"""The images of a run: a given folder, or files made on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.bench.results import Images
from numclip_runtime.images.folder import find_images
from numclip_runtime.preprocess import load_rgb

COUNT = 32
SIZE = (640, 480)  # width, height, pixels
QUALITY = 90
SEED = 0
CALIBRATION_SEED = 1  # of the pieces that INT8 is calibrated with: others than those measured
FEW = 16  # fewer different images than this stay in the caches from one batch to the next
_PROBED = 16  # images opened to learn their size: decoding time depends on it
# Photos that come with packages of the demo: (package, path inside it)
_PHOTOS = (
    *(("skimage", f"data/{name}.png") for name in ("astronaut", "coffee", "chelsea", "brick")),
    *(("skimage", f"data/{name}.png") for name in ("grass", "ihc", "motorcycle_left", "gravel")),
    *(("sklearn", f"datasets/images/{name}.jpg") for name in ("china", "flower")),
)


@dataclass(frozen=True)
class ImageSet:
    """Image files, and their description for a report."""

    paths: list[str]
    about: Images


@contextmanager
def open_images(folder: Path | None, *, seed: int = SEED) -> Iterator[ImageSet]:
    """Yield the images of a folder or, for None, made ones that are deleted afterwards.

    Made ones are pieces of real photos where scikit-image or scikit-learn is installed, else
    synthetic: the network's time does not depend on it, fidelity does. `seed` chooses them.

    Raises:
        UsageError: if the folder holds no image.
        ImageError: if one of the first images cannot be read.
    """
    if folder is not None:
        yield _describe(find_images([str(folder)]), "given", folder.resolve().name)
        return
    with tempfile.TemporaryDirectory(prefix="numclip-latency-") as temporary:
        size = f"{SIZE[0]}x{SIZE[1]} JPEG, quality {QUALITY}"
        if photos := find_photos():
            paths = write_pieces(photos, Path(temporary), seed=seed)
            yield _describe(paths, "photo", f"{size}, pieces of {len(photos)} photos")
        else:
            name = f"{size}, gradients plus noise, seed {seed}"
            yield _describe(write_synthetic(Path(temporary), seed=seed), "synthetic", name)


def find_photos() -> list[Path]:
    """Return the photos that come with installed packages, which are not imported."""
    found = []
    for package, name in _PHOTOS:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin).parent / name
            found += [path] if path.is_file() else []
    return found


def write_pieces(
    photos: list[Path], folder: Path, *, count: int = COUNT, seed: int = SEED
) -> list[str]:
    """Write pieces of photos, scaled to SIZE, as JPEGs into a folder."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        photo = load_rgb(photos[i % len(photos)])
        scale = rng.uniform(0.5, 1) * min(photo.width / SIZE[0], photo.height / SIZE[1])
        width, height = round(scale * SIZE[0]), round(scale * SIZE[1])
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        piece = photo.crop((left, top, left + width, top + height))
        path = folder / f"{i:02}.jpg"
        piece.resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=QUALITY)
        paths.append(str(path))
    return paths


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
    return ImageSet(paths, Images(source, name, len(paths), megapixels))
