"""Open a model for a server, and let it work until its speed is known."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from numclip_runtime.backends import open_backend
from numclip_runtime.errors import ImageError, ModelError
from numclip_runtime.model_files.model_file import ModelFile
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.pipeline import plan_stream
from numclip_runtime.predictor import Origin, Predictor
from numclip_runtime.serve.predict_line import (
    Job,
    Observer,
    PredictLine,
    Unobserved,
    Upload,
)
from numclip_runtime.serve.serve_options import ServeOptions

SIZE = (1024, 768)  # pixels of the picture that the model is warmed with
LEAST_S = 0.5  # of measuring
MOST_IMAGES = 256
PER_WORKER = 4  # pictures in a round


def open_line(model: Path, options: ServeOptions, observer: Observer) -> PredictLine:
    """Open a model and start its threads.

    The digest is that of the bytes that are loaded, whatever has the name meanwhile.

    Raises:
        NumclipError: as `load`; UsageError if the numbers do not fit the model.
    """
    opening = replace(options.opening, optimize_for="throughput")
    opening.check(model)
    with OpenModel(model) as file:
        digest = file.sha256()
        backend = open_backend(file, opening)
        try:
            file.check_unchanged()
            plan = plan_stream(backend, options.batch_size, options.workers)
        except BaseException:
            backend.close()
            raise
        origin = Origin(ModelFile(file), opening)
    predictor = Predictor(backend, fast_decode=opening.fast_decode, origin=origin)
    return PredictLine(predictor, plan, observer, name=model.name, digest=digest)


def warm_up(line: PredictLine) -> None:
    """Run a line until it is fast, and its pace is known.

    Raises:
        ModelError: if the model gives no numbers.
        Exception: of the network.
    """
    observer, line.observer = line.observer, Unobserved()
    try:
        _measure(line)
    finally:
        line.observer = observer


def _measure(line: PredictLine) -> None:
    picture = Upload("warm-up", _photo())
    inputs = line.predictor.preprocess(picture)
    for size in {1, line.plan.batch_size}:
        line.predictor.predict_inputs(np.repeat(inputs[None], size, 0))
    count = max(PER_WORKER * line.plan.workers, 2 * line.plan.batch_size)
    _run(line, picture, count)
    line.pace.forget()
    began, done = time.monotonic(), 0
    while done < MOST_IMAGES and (done == 0 or time.monotonic() - began < LEAST_S):
        _run(line, picture, count)
        done += count


def _run(line: PredictLine, picture: Upload, count: int) -> None:
    finished = threading.Event()
    job = Job([picture] * count, wait_s=float("inf"), finished=finished.set)
    line.add(job)
    finished.wait()
    if job.fault is not None:
        raise job.fault
    if isinstance(result := job.results[0], ImageError):
        raise ModelError(f"{line.name}: cannot be used: {result}")


def _photo() -> bytes:
    """Return a JPEG that takes as long to decode as a photo: smooth, with some noise."""
    width, height = SIZE
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    slope = np.linspace(20, 220, width)[None, :, None] + np.linspace(0, 20, height)[:, None, None]
    pixels = np.clip(slope + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()
