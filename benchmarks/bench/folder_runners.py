"""Programs that predict a folder of images: a textbook loop, and a predictor's stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.bench.decode_paths import textbook_decode, textbook_input
from benchmarks.bench.interleave import interleave
from numclip_runtime import ImageError, Predictor, UsageError
from numclip_runtime.metadata import INPUT_NAME, VALUES_NAME, ModelMetadata
from numclip_runtime.pipeline import StreamPlan, plan_stream

# Called with paths; its result is ignored while the clock runs.
Program = Callable[[Sequence[str]], object]


class TextbookLoop:
    """The usual first program: open, resize, crop, normalise, run; one image after the other.

    The model is an ONNX file with float32 input, run by onnxruntime with its default threads.

    Raises:
        UsageError: if the model's input is pixels.
    """

    def __init__(self, model: Path, metadata: ModelMetadata) -> None:
        import onnxruntime as ort

        self.spec = metadata.preprocessing
        if metadata.input != "float32":
            raise UsageError(f"{model}: its input is pixels; the textbook loop needs float32.")
        self.session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def __call__(self, paths: Sequence[str]) -> list[float]:
        """Return the value of each image."""
        return [self.predict(path) for path in paths]

    def predict(self, path: str) -> float:
        """Return the value of one image."""
        inputs = textbook_input(textbook_decode(path), self.spec)[None]  # (1, 3, H, W)
        return float(self.session.run([VALUES_NAME], {INPUT_NAME: inputs})[0][0])


class StreamOf:
    """A predictor's stream, and its two stages by themselves with the same threads."""

    def __init__(
        self, predictor: Predictor, *, batch_size: int | None = None, workers: int | None = None
    ) -> None:
        self.predictor = predictor
        self.plan: StreamPlan = plan_stream(predictor.backend, batch_size, workers)
        self._inputs: list[Any] = []  # preprocessed batches, for `infer`

    def __call__(self, paths: Sequence[str]) -> list[float]:
        """Return the value of each image.

        Raises:
            ImageError: if one cannot be read.
        """
        plan, values = self.plan, []
        results = self.predictor.stream(paths, batch_size=plan.batch_size, workers=plan.workers)
        for result in results:
            if isinstance(result, ImageError):
                raise result
            values.append(result.value)
        return values

    def decode(self, paths: Sequence[str]) -> None:
        """Decode and preprocess only."""
        with ThreadPoolExecutor(self.plan.workers) as pool:
            for done in [pool.submit(self._decode, path) for path in paths]:
                done.result()

    def _decode(self, path: str) -> None:
        self.predictor.preprocess(path)  # the array is not kept: hundreds would fill the memory

    def infer(self, paths: Sequence[str]) -> None:
        """Run the network only, as many images as there are paths, on inputs made before."""
        size = self.plan.batch_size
        starts = range(0, len(paths), size)
        with ThreadPoolExecutor(self.plan.lanes) as pool:
            runs = [
                pool.submit(self.predictor.predict_inputs, batch[: len(paths) - start])
                for batch, start in zip(itertools.cycle(self._inputs), starts, strict=False)
            ]
            for run in runs:
                run.result()

    def prepare(self, paths: Sequence[str]) -> None:
        """Make the inputs of `infer`, 4 batches."""
        inputs = map(self.predictor.preprocess, itertools.cycle(paths))
        size = self.plan.batch_size
        self._inputs = [np.stack(list(itertools.islice(inputs, size))) for _ in range(4)]


def stream_shares(stream: float, decode: float, infer: float) -> tuple[float, float]:
    """Return the stream's share of what its stages allow; all speeds are images per second.

    First of its slowest stage's own speed, 1 where all else is hidden; then of what can be reached
    where both stages need the same cores.
    """
    return stream / min(decode, infer), stream * (1 / decode + 1 / infer)


def time_chunks(
    programs: Mapping[str, Program],
    paths: Sequence[str],
    *,
    chunk: int,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, list[float]]:
    """Give each chunk of images to each program, every second time in reverse order.

    Before the clock (in seconds) starts, each program gets one chunk. Returns, by name, the
    seconds for each chunk.
    """
    for program in programs.values():
        program(paths[:chunk])

    def turn(program: Program, number: int) -> float:
        part = paths[number * chunk : (number + 1) * chunk]
        begin = clock()
        program(part)
        return clock() - begin

    turns = {name: partial(turn, program) for name, program in programs.items()}
    return interleave(turns, -(-len(paths) // chunk), order="mirrored")
