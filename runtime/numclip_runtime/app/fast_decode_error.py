"""How much fast decoding moves the numbers, measured on the images at hand."""

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
from PIL import Image

from numclip_runtime.decode import shrink
from numclip_runtime.errors import ImageError
from numclip_runtime.metadata import Preprocessing
from numclip_runtime.predictor import Predictor
from numclip_runtime.preprocess import InputArray, least_side, network_input

MOST = 16  # images that a run compares
# Of the run's images; at 12 MP, the slowest, one in 100 is 3 % of the run's time. A handful
# of images is over within a second anyway, but fewer than 4 say little.
LEAST, SHARE = 4, 1 / 100

PathLike: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Drift:
    """Change of the predicted value where JPEGs are decoded at a smaller size."""

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
            "range), "
            f"in {images} decoded both ways."
        )


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):g}"  # 1200, not 1.2e+03


def decode_drift(predictor: Predictor, paths: Iterable[PathLike], *, workers: int = 1) -> Drift:
    """Predict images from fast and from exact decoding, one by one, and compare the values.

    Args:
        predictor: Any, also one that decodes exactly.
        paths: Image files; those that are no JPEGs, too small to be decoded at a smaller size, or
            cannot be read, are left out.
        workers: Threads that decode.
    """
    metadata = predictor.metadata
    scaled = [path for path in paths if is_scaled(path, metadata.preprocessing)]
    changes = []
    with ThreadPoolExecutor(workers) as pool:
        for inputs in pool.map(partial(_both_inputs, predictor), scaled):
            if inputs is not None:
                # Alone, as a run predicts them: dynamic INT8 rounds a batch by its largest numbers
                fast, exact = (predictor.predict_inputs(each[None])[0].value for each in inputs)
                changes.append(abs(fast - exact))
    return Drift(
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
    """Whether fast decoding takes a smaller size of this file; reads its header only (0.1 ms)."""
    try:
        with Image.open(path) as image:
            return shrink(image, least_side(spec)) > 1
    except Exception:  # whatever a broken file raises, see decode
        return False


class Sample:
    """A few of the scaled JPEGs of a run of any length, each as likely to be among them."""

    def __init__(self, spec: Preprocessing) -> None:
        self._spec = spec
        self._random = random.Random(0)  # the same run reports on the same images
        self._kept: list[tuple[float, int, str]] = []  # heap of (-key, index, path)
        self._seen = 0

    def offer(self, path: str) -> None:
        """Consider an image that was read; most are passed over without opening them."""
        self._seen += 1
        entry = (-self._random.random(), self._seen, path)
        if len(self._kept) < MOST:
            if is_scaled(path, self._spec):
                heapq.heappush(self._kept, entry)
        elif entry > self._kept[0] and is_scaled(path, self._spec):
            heapq.heapreplace(self._kept, entry)

    @property
    def paths(self) -> list[str]:
        """The images to compare: all of up to 4, then 1 in 100 of the run, at most 16."""
        wanted = min(MOST, max(LEAST, round(self._seen * SHARE)))
        return [path for _, _, path in sorted(self._kept, reverse=True)[:wanted]]
