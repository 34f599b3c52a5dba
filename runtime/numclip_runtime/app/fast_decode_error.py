"""The error of fast decoding: how far it moves the values of the images at hand."""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from numclip_runtime.errors import ImageError
from numclip_runtime.images.formats import open_image
from numclip_runtime.metadata import Preprocessing
from numclip_runtime.predictor import Predictor
from numclip_runtime.preprocess import InputArray, least_side, network_input

# Images that a run compares: 1 in 100, which is 3 % of the run's time at 12 MP, the slowest size.
# Fewer than 4 would mean little, and take less than a second.
SHARE_COMPARED, FEWEST_COMPARED, MOST_COMPARED = 1 / 100, 4, 16

PathLike: TypeAlias = str | os.PathLike[str] | bytes  # a path, or the content of a file


@dataclass(frozen=True)
class Deviation:
    """Change of the predicted value if JPEGs are decoded at a smaller size."""

    compared: int  # images predicted both ways; 0: fast decoding changes none of them
    mean: float  # of the absolute changes, label units
    largest: float  # of the absolute changes, label units
    label_range: float  # of the task, label units
    unit: str  # of all three; may be empty

    def __str__(self) -> str:
        unit = f" {self.unit}".rstrip()
        images = "1 JPEG" if self.compared == 1 else f"{self.compared} JPEGs"
        mean, largest = self.mean / self.label_range, self.largest / self.label_range
        return (
            f"--fast-decode moved the value by {_two_digits(self.mean)}{unit} on average and by "
            f"{_two_digits(self.largest)}{unit} at most ({mean:.2%} and {largest:.2%} of the label "
            f"range), in {images} decoded both ways."
        )


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):g}"  # 1200, not 1.2e+03


def measure_deviation(
    predictor: Predictor, paths: Iterable[PathLike], *, workers: int = 1
) -> Deviation:
    """Predict images from fast and from exact decoding, one by one, and compare the values.

    Args:
        predictor: Any, also one that decodes exactly.
        paths: Image files; skipped unless they are readable JPEGs, large enough to be decoded at a
            smaller size.
        workers: Threads that decode.
    """
    metadata = predictor.metadata
    scaled = [path for path in paths if is_scaled(path, metadata.preprocessing)]
    changes = []
    with ThreadPoolExecutor(workers) as pool:
        for inputs in pool.map(partial(_both_inputs, predictor), scaled):
            if inputs is not None:
                # One by one, as in a run: dynamic INT8 rounds a batch by its largest numbers
                fast, exact = (predictor.predict_inputs(each[None])[0].value for each in inputs)
                changes.append(abs(fast - exact))
    return Deviation(
        compared=len(changes),
        mean=float(np.mean(changes)) if changes else 0.0,
        largest=max(changes, default=0.0),
        label_range=metadata.task.label_range,
        unit=metadata.task.unit,
    )


def _both_inputs(predictor: Predictor, path: PathLike) -> list[InputArray] | None:
    try:
        return [network_input(path, predictor.metadata, fast_decode=fast) for fast in (True, False)]
    except ImageError:  # removed or damaged since it was read
        return None


def is_scaled(path: PathLike, spec: Preprocessing) -> bool:
    """Return whether fast decoding makes this file smaller; reads its header only (0.1 ms)."""
    try:
        with open_image(path, least=least_side(spec)) as opened:
            return opened.scale > 1
    except Exception:  # broken files raise many types, see decode
        return False


class ScaledSample:
    """A reservoir sample: a few of the scaled JPEGs of a run of any length, all equally likely."""

    def __init__(self, spec: Preprocessing) -> None:
        self._spec = spec
        self._random = random.Random(0)  # fixed, so that equal runs compare the same images
        self._kept: list[tuple[float, int, PathLike]] = []  # heap of (-key, index, path)
        self._seen = 0

    def offer(self, path: PathLike) -> None:
        """Consider an image that was read; most are skipped without opening them."""
        self._seen += 1
        entry = (-self._random.random(), self._seen, path)
        if len(self._kept) < MOST_COMPARED:
            if is_scaled(path, self._spec):
                heapq.heappush(self._kept, entry)
        elif entry > self._kept[0] and is_scaled(path, self._spec):
            heapq.heapreplace(self._kept, entry)

    @property
    def paths(self) -> list[PathLike]:
        """The images to compare: all of up to 4, then 1 in 100 of the run, at most 16."""
        wanted = round(self._seen * SHARE_COMPARED)
        wanted = min(MOST_COMPARED, max(FEWEST_COMPARED, wanted))
        return [path for _, _, path in sorted(self._kept, reverse=True)[:wanted]]
