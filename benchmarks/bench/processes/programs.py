"""Programs as users would write them, run by `child` with nothing of the benchmark beside them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

STATUS = Path("/proc/self/status")  # Linux; VmRSS and VmHWM, the peak, in kB


def predict_with_runtime(model: str, image: str, threads: int | None) -> Iterator[dict[str, Any]]:
    """Predict an image with an exported model; yield the value, and then what it took."""
    start = perf_counter()
    import onnxruntime  # noqa: F401 (else it would be imported later, while the model opens)

    from numclip_runtime import load

    imported = perf_counter()
    yield {"value": load(model, threads=threads).predict(image).value}
    yield {"import_s": imported - start, "peak_host_mb": peak_host_mb()}


def predict_with_torch(
    checkpoint: str, image: str, threads: int | None
) -> Iterator[dict[str, Any]]:
    """Predict an image with the checkpoint in PyTorch; yield the value, and then what it took."""
    start = perf_counter()
    import torch

    from numclip.checkpoint import load_checkpoint  # imports open_clip
    from numclip_runtime.preprocess import preprocess

    imported = perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_checkpoint(Path(checkpoint))
    images = torch.from_numpy(preprocess(image, loaded.metadata.preprocessing)[None])
    with torch.inference_mode():
        yield {"value": loaded.model(images).values.item()}
    yield {"import_s": imported - start, "peak_host_mb": peak_host_mb()}


def stream_images(
    model: str,
    paths: list[str],
    count: int,
    every: int,
    options: dict[str, Any],
    stream: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Stream `count` images, again and again; yield the memory after each `every` images.

    `options` are for `load`, `stream` for `Predictor.stream`.
    """
    from numclip_runtime import load

    start = perf_counter()
    with load(model, **options) as predictor:
        images = itertools.islice(itertools.cycle(paths), count)
        for done, result in enumerate(predictor.stream(images, **stream), 1):
            if isinstance(result, Exception):
                raise result
            if done % every == 0 or done == count:
                yield {
                    "images": done,
                    "rss_kib": _status_kib("VmRSS"),
                    "peak_kib": _status_kib("VmHWM"),
                    "seconds": perf_counter() - start,
                }


def peak_host_mb(status: Path = STATUS) -> float | None:
    """Return the peak resident memory of this process since it began, MB; None: not known."""
    if (kib := _status_kib("VmHWM", status)) is not None:
        return kib * 1024 / 1e6
    if sys.platform == "win32":
        return None
    import resource

    # Not used on Linux: it starts with the parent's peak, which is carried over by exec.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _status_kib(name: str, status: Path = STATUS) -> int | None:
    if not status.exists():
        return None
    lines = status.read_text("utf-8").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
