"""The number that a model reads off an image, with its interval and its bins."""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from numclip_runtime.errors import ImageError


class PictureSource(NamedTuple):
    """Where the image of a prediction is."""

    path: str | None  # of its file, as given
    picture: weakref.ref[Any] | None  # a Pillow image or array, which predictions do not keep alive


NOWHERE = PictureSource(None, None)


def picture_source(image: object) -> PictureSource:
    """Return where an image is: its path, that of an open file, or the picture itself."""
    if isinstance(image, str):
        return PictureSource(image, None)
    if isinstance(image, (bytes, ImageError)):
        return NOWHERE
    if isinstance(image, np.ndarray):
        return PictureSource(None, weakref.ref(image))
    if isinstance(image, os.PathLike):
        return PictureSource(os.fsdecode(image), None)
    name = getattr(image, "filename", None) or getattr(image, "name", None)
    path = name if isinstance(name, str) else None
    if hasattr(image, "read"):  # it may be at its end
        return PictureSource(path, None)
    try:
        return PictureSource(path, weakref.ref(image))
    except TypeError:
        return PictureSource(path, None)


@dataclass(frozen=True)
class Prediction:
    """The number that the model reads off one image; a notebook shows it with the picture."""

    # the number, in `unit`; unless the task's prediction is "class" it weighs all bins, and so may
    # lie outside `bin`: half 10 and half 30 is 20
    value: float
    unit: str  # unit of value and interval; may be empty
    # (low, high): holds the true number in 9 of 10 images (DEFAULT_COVERAGE), see
    # `Calibration.promised`; None: not calibrated
    interval: tuple[float, float] | None
    bin: str  # phrase of the most probable bin
    bin_probs: dict[str, float]  # phrase -> probability, lowest bin first, sums to 1
    path: str | None = field(default=None, compare=False)  # of the image; None: it came without one
    # the picture, for notebooks, while it is alive
    picture: weakref.ref[Any] | None = field(default=None, compare=False, repr=False)
    # how the network's input looked, see `monitor.statistics`; None: no monitor follows
    input_statistics: tuple[float, ...] | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: {"value", "unit", "interval", "bin", "bin_probs"}."""
        return {
            "value": self.value,
            "unit": self.unit,
            "interval": self.interval,
            "bin": self.bin,
            "bin_probs": dict(self.bin_probs),
        }

    def of(self, source: PictureSource) -> Prediction:
        """Note the place of the image in this prediction, which nobody else has yet; return it."""
        vars(self).update(path=source.path, picture=source.picture)  # replace() takes 10 us
        return self

    def _repr_html_(self) -> str:
        """Return what a notebook shows: picture, number, interval and bins."""
        from numclip_runtime.results.notebook import html_of

        picture = None if self.picture is None else self.picture()
        return html_of(self.to_dict(), self.path, picture)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "picture": None}  # a picture stays in its process


def finite(path: str, result: Prediction | ImageError) -> Prediction | ImageError:
    """Return a result, or the error of an image if a number of its prediction is not finite."""
    if isinstance(result, Prediction) and (fault := _fault_of(result)):
        return ImageError(f"{path}: {fault}")
    return result


def _fault_of(prediction: Prediction) -> str | None:
    """Return a sentence if a number is NaN or infinite, e.g. by an fp16 overflow; JSON has none."""
    if not math.isfinite(prediction.value):
        return f"the model gives no number, but {prediction.value}."
    for name, numbers in (
        ("a probability", prediction.bin_probs.values()),
        ("an end of the interval", prediction.interval or ()),
    ):
        for number in numbers:
            if not math.isfinite(number):
                return f"the model gives {number} as {name}."
    return None


def refuse_one(images: object, method: str) -> None:
    """Refuse a single image where several are meant: a text would be taken letter by letter.

    Raises:
        TypeError: naming the method for one image.
    """
    array = isinstance(images, np.ndarray) and images.ndim < 4
    kinds = (str, bytes, bytearray, os.PathLike, Image.Image)
    if array or isinstance(images, kinds) or hasattr(images, "read"):
        raise TypeError(
            f"{method} takes several images, such as a list of paths, and got one "
            f"{type(images).__name__}; use predict for a single image."
        )


def located(
    results: Generator[Prediction | ImageError, None, None], sources: deque[PictureSource]
) -> Generator[Prediction | ImageError, None, None]:
    """Yield results of a stream, each with the place of its image."""
    with closing(results):
        for result in results:
            source = sources.popleft()
            if isinstance(result, Prediction):
                yield result.of(source)
            else:
                result.path = result.path or source.path
                yield result
