"""Part d: the lanes of the TensorRT backend, and the timeline of their overlap.

torch takes the place of TensorRT, see `torch_engine`: all else is the code that runs plans.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.bench.gpu.checks import Check, Settings, expect, loaded_packages, tried
from benchmarks.bench.gpu.proof_models import CHECKPOINT, photos_of
from benchmarks.bench.gpu.stand_in import StandIn
from benchmarks.bench.gpu.torch_engine import install
from benchmarks.timeline import Span, record, save_timeline
from numclip_runtime import ImageError, Predictor
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend

_LARGEST, _TIMED_BATCH, _RUNS = 64, 32, 8
_SIZES = (1, 8, _LARGEST, 3 * _LARGEST + 5)  # the last runs in parts
# Of the values, of the label range: a graph runs the same kernels, torch by itself perhaps others
_TOLERANCE = 2e-3


def check_lanes(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield the checks; `settings` are those of `Settings`."""
    given = Settings(**settings)
    standin = StandIn(given.library) if given.rehearse else None
    with ExitStack() as stack:
        if standin is not None:
            stack.enter_context(standin.working())
        engine = partial(
            install,
            Path(given.work),
            Path(given.models) / CHECKPOINT,
            device=given.device,
            largest=_LARGEST,
            standin=standin,
        )
        plan, network = engine(precision="fp32" if given.rehearse else "fp16")
        yield tried("lanes and CUDA graphs equal torch", partial(_equal, given, plan, network))
        yield tried("stream of photos", partial(_stream, given, plan, network))
        yield tried("two lanes against one", partial(_speed, given, plan))
        # Without a graph, torch launches a hundred kernels one by one, while the other lane waits.
        # In float16 an H200 has done them by the time the last one is launched: nothing overlaps.
        plan, _ = engine(precision="fp32")
        yield tried("timeline", partial(_timeline, given, plan))
    sys.modules.pop("tensorrt", None)
    yield loaded_packages()


def _images(backend: Any, count: int) -> np.ndarray[Any, Any]:
    crop = backend.metadata.preprocessing.crop
    return np.random.default_rng(0).normal(size=(count, 3, crop, crop)).astype(np.float32)


def _equal(settings: Settings, plan: Path, network: Any) -> dict[str, Any]:
    """Run each size four times, of which the last two are CUDA graphs, and compare with torch."""
    backend = TensorRTBackend(plan, library=settings.library)
    try:
        allowed = _TOLERANCE * backend.metadata.task.label_range
        worst = 0.0
        for size in _SIZES:
            images = _images(backend, size)
            wanted = np.concatenate(
                [network.run(images[i : i + _LARGEST])[0] for i in range(0, size, _LARGEST)]
            )
            for turn in range(4):
                values, bin_probs = backend.run(images)
                error = float(np.abs(values - wanted).max())
                worst = max(worst, error)
                expect(error <= allowed, f"batch {size}, run {turn}: differs by {error:.4g}")
                expect(bin_probs.shape[0] == size, f"batch {size}: {bin_probs.shape}")
        expect(backend.cuda_graphs, f"no CUDA graphs: {'; '.join(backend.notes)}")
        expect(backend.lanes == 2, f"{backend.lanes} lanes: {'; '.join(backend.notes)}")
        return {"max_difference": worst, "batches": list(_SIZES), "device": backend.device}
    finally:
        backend.close()


def _stream(settings: Settings, plan: Path, network: Any) -> dict[str, Any]:
    photos = photos_of(Path(settings.models))
    with Predictor(TensorRTBackend(plan, library=settings.library)) as predictor:
        inputs = np.stack([predictor.preprocess(path) for path in photos])
        found = [r for r in predictor.stream(photos) if not isinstance(r, ImageError)]
        allowed = _TOLERANCE * predictor.metadata.task.label_range
    wanted = np.concatenate(
        [network.run(inputs[i : i + _LARGEST])[0] for i in range(0, len(inputs), _LARGEST)]
    )
    expect(len(found) == len(photos), f"{len(found)} results of {len(photos)} photos")
    error = float(np.abs(np.array([r.value for r in found]) - wanted).max())
    expect(error <= allowed, f"differs from torch by {error:.4g}")
    return {"photos": len(found), "max_difference": error}


def _timeline(settings: Settings, plan: Path) -> dict[str, Any]:
    """Record and draw the lanes; a copy of one must run while the other computes."""
    backend = TensorRTBackend(plan, library=settings.library)
    try:
        spans = record(backend, batch=_LARGEST, runs=_RUNS)
        title = f"two lanes, batches of {_LARGEST}, torch in float32 in the place of TensorRT"
        note = f"{backend.device}; CUDA events without graphs: bars include waiting"
    finally:
        backend.close()
    picture = Path(settings.out) / "gpu-timeline.svg"
    save_timeline(picture, spans, kind="svg", title=title, note=note)
    together = overlap_ms(spans)
    total = max(span.end_ms for span in spans)
    expect(together > 0, "no copy of one lane ran beside the other lane's work")
    return {"picture": picture.name, "ms": round(total, 3), "overlap_ms": round(together, 3)}


def overlap_ms(spans: list[Span]) -> float:
    """Return how long a copy of one lane lies beside a computation of the other, ms."""
    copies = [span for span in spans if span.stage != "compute"]
    computing = [span for span in spans if span.stage == "compute"]
    return sum(
        max(0.0, min(a.end_ms, b.end_ms) - max(a.start_ms, b.start_ms))
        for a in copies
        for b in computing
        if a.lane != b.lane
    )


def _speed(settings: Settings, plan: Path) -> dict[str, Any]:
    """Time batches from as many threads as lanes."""
    from concurrent.futures import ThreadPoolExecutor

    found = {}
    for lanes in (1, 2):
        backend = TensorRTBackend(plan, library=settings.library, lanes=lanes)
        try:
            images = [_images(backend, _TIMED_BATCH)] * (4 if settings.rehearse else 40)
            with ThreadPoolExecutor(lanes) as pool:
                list(pool.map(backend.run, images[:4]))
                start = perf_counter()
                list(pool.map(backend.run, images))
                seconds = perf_counter() - start
        finally:
            backend.close()
        found[f"images_per_s_{lanes}"] = round(len(images) * _TIMED_BATCH / seconds, 1)
    return found
