"""Ways from an image file to the network's input, their times, and their agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from benchmarks.bench.interleave import interleave
from numclip_runtime import Preprocessing
from numclip_runtime.images.decode import decode
from numclip_runtime.preprocess import FloatArray, least_side, normalise, pixels_of

SAME = 99.0  # stands for the PSNR of equal pixels, which is infinite; dB

Decoder: TypeAlias = Callable[[str], Any]
Finisher: TypeAlias = Callable[[Any], FloatArray]
Ways: TypeAlias = Mapping[str, tuple[Decoder, Finisher]]  # name -> file to picture, to input


def ways(spec: Preprocessing) -> Ways:
    """Return the ways from a file to (3, crop, crop) float32; the first is the usual one."""

    def finish(decoded: Any) -> FloatArray:
        return normalise(pixels_of(decoded, spec), spec)

    return {
        "textbook": (textbook_decode, partial(textbook_input, spec=spec)),
        "exact": (decode, finish),
        "fast": (partial(decode, least=least_side(spec)), finish),
    }


def textbook_decode(path: str) -> Image.Image:
    """Decode as the documentation of Pillow does."""
    with Image.open(path, formats=("JPEG", "PNG", "WEBP", "TIFF", "BMP")) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def textbook_input(image: Image.Image, spec: Preprocessing) -> FloatArray:
    """Resize, crop and normalise step by step, as a line of transforms in torchvision does.

    Returns (3, crop, crop) float32.
    """
    scale = spec.resize / min(image.size)
    width, height = (max(spec.resize, int(side * scale)) for side in image.size)
    if spec.resize_mode == "squash":
        width = height = spec.resize
    image = image.resize((width, height), Image.Resampling[spec.interpolation.upper()])
    left, top = round((width - spec.crop) / 2), round((height - spec.crop) / 2)
    image = image.crop((left, top, left + spec.crop, top + spec.crop))
    scaled = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32) / 255
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (spec.mean, spec.std))
    return np.asarray((scaled - mean) / std, np.float32)


@dataclass(frozen=True)
class DecodeTimes:
    """One way on one file; medians over the rounds."""

    decode_ms: float
    preprocess_ms: float
    ratio: float  # of the textbook's time to this way's, in the same round


def time_ways(path: str, by: Ways, *, rounds: int) -> dict[str, DecodeTimes]:
    """Time all ways on one file by turns, A B C A B C; the first turn is not counted."""

    def turn(way: tuple[Decoder, Finisher], _: int) -> tuple[int, int, int]:
        decoder, finisher = way
        start = perf_counter_ns()
        decoded = decoder(path)
        middle = perf_counter_ns()
        finisher(decoded)
        return start, middle, perf_counter_ns()

    stamps = interleave({name: partial(turn, way) for name, way in by.items()}, rounds + 1)
    spans = {name: np.diff(found[1:], axis=1) / 1e6 for name, found in stamps.items()}  # ms
    textbook = next(iter(spans.values())).sum(axis=1)  # (rounds,)
    return {
        name: DecodeTimes(
            decode_ms=float(np.median(times[:, 0])),
            preprocess_ms=float(np.median(times[:, 1])),
            ratio=float(np.median(textbook / times.sum(axis=1))),
        )
        for name, times in spans.items()
    }


def psnr(a: FloatArray, b: FloatArray, spec: Preprocessing) -> float:
    """Return the PSNR, dB, of the 8-bit pixels behind two inputs, (3, H, W) each."""
    std = np.array(spec.std)[:, None, None]
    levels = np.rint((a - b) * std * 255)  # exact where the source had 8 bits
    error = float(np.square(levels).mean())
    return SAME if error == 0 else 10 * float(np.log10(255**2 / error))
