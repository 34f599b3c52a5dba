"""Open a model for a server, and let it work until its speed is known."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from numclip_runtime.app.monitoring.observed import ObservedPredictor
from numclip_runtime.backends import Backend, OpenOptions, open_backend
from numclip_runtime.backends.origin import Origin, open_with_origin
from numclip_runtime.errors import ImageError, ModelError
from numclip_runtime.model_files.bundle import read_bundle
from numclip_runtime.model_files.given import is_bundle
from numclip_runtime.model_files.model_file import ModelFile
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.monitor.monitor_file import MonitoredModel, reference_for
from numclip_runtime.pipeline import plan_stream
from numclip_runtime.predictor import Predictor
from numclip_runtime.serve.predict_line import (
    Job,
    Observer,
    PredictLine,
    Upload,
)
from numclip_runtime.serve.serve_options import ServeOptions

SIZE = (1024, 768)  # pixels of the picture that the model is warmed with
LEAST_S = 0.5  # of measuring
MOST_IMAGES = 256
PER_WORKER = 4  # pictures in a round


class Unobserved:
    """Looks away."""

    def decoded(self, seconds: float) -> None:
        """Do nothing."""

    def ran(self, seconds: float, images: int) -> None:
        """Do nothing."""

    def picture(self, outcome: str) -> None:
        """Do nothing."""


def open_line(model: Path, options: ServeOptions, observer: Observer) -> PredictLine:
    """Open a model and start its threads.

    The digest is that of the bytes that are loaded, whatever has the name meanwhile.

    Args:
        model: A file, or a bundle, of which the artefact is taken that opens here.
        options: Of the server.
        observer: See `PredictLine`.

    Raises:
        NumclipError: as `load`; UsageError if the numbers do not fit the model, or a file is no
            reference of it; ModelError if a monitor was asked for and the model has no reference.
    """
    opening = replace(options.opening, optimize_for="throughput")
    content = read_bundle(model).sha256 if is_bundle(model) else ""
    backend, origin = _opened(model, opening)
    try:
        plan = plan_stream(backend, options.batch_size, options.workers)
        name, digest = origin.file.path.name, origin.file.pin()
        reference = None
        if not options.no_monitor:
            needed, other = options.monitoring.monitor is not None, options.monitoring.reference
            found = MonitoredModel(name, digest)
            reference = reference_for(found, backend.metadata.reference, other, needed=needed)
    except BaseException:
        backend.close()
        raise
    kind = Predictor if reference is None else ObservedPredictor
    return PredictLine(
        kind(backend, fast_decode=opening.fast_decode, origin=origin),
        plan,
        observer,
        name=name,
        digest=digest,
        content=content,
        reference=reference,
    )


def _opened(model: Path, opening: OpenOptions) -> tuple[Backend, Origin]:
    if is_bundle(model):
        return open_with_origin(model, opening)  # which compares the digest
    opening.check(model)
    with OpenModel(model) as file:
        file.sha256()  # the origin keeps it
        backend = open_backend(file, opening)
        try:
            file.check_unchanged()
        except BaseException:
            backend.close()
            raise
        return backend, Origin(ModelFile(file), opening)


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
