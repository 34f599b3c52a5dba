"""Part f: training in mixed precision: samples per second, and a resumed run equals a whole one."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.bench.gpu.checks import Check, Settings, expect, loaded_packages, tried
from benchmarks.bench.gpu.proof_models import FULL_NETWORK, PHOTO_SIZE, REHEARSAL_CLIP
from benchmarks.bench.images import write_synthetic

_PRECISIONS = ("bf16-mixed", "16-mixed", "32-true")
_STEPS, _SKIPPED = 20, 5  # of an epoch, and at its start those that are not timed
_BATCH = 64
_EPOCHS, _STOPPED_IN = 4, 2  # of the run that is interrupted
# What a resumed run may differ by, over the difference of two whole runs: sums on a GPU have no
# fixed order
_NOISE = 4.0


def check_training(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield the checks; `settings` are those of `Settings`."""
    # With a fixed order of sums where the libraries have one; read when CUDA starts
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    given = Settings(**settings)
    folder = Path(given.work) / "training"
    folder.mkdir(exist_ok=True)
    photos = write_synthetic(folder, count=32, size=PHOTO_SIZE)
    for precision in _PRECISIONS:
        yield tried(f"{precision}: {_STEPS} steps", partial(_speed, given, photos, precision))
    for precision in _PRECISIONS[:2]:
        yield tried(f"{precision}: resumed", partial(_resumed, given, photos, precision))
    yield loaded_packages()


def _fit(
    photos: list[str], precision: Any, *, full: bool, batch: int, count: int, **more: Any
) -> tuple[Any, dict[str, float]]:
    """Train on `count` samples an epoch; return the model and its metrics."""
    import torch

    from numclip.data.samples import Sample
    from numclip.model.backbone import clip_config
    from numclip.model.model_config import ModelConfig
    from numclip.model.numclip import NumClip
    from numclip.tasks import load_task
    from numclip.training.config import TrainConfig
    from numclip.training.fit import fit
    from numclip_runtime import Preprocessing

    torch.manual_seed(0)
    clip: dict[str, Any] = (
        {**clip_config(FULL_NETWORK), "quick_gelu": True} if full else REHEARSAL_CLIP
    )
    side = clip["vision_cfg"]["image_size"]
    model = NumClip(ModelConfig(clip), load_task("age"))
    samples = [Sample(Path(photos[i % len(photos)]), float(7 * i % 100)) for i in range(count)]
    spec = Preprocessing(crop=side, resize=round(side * 8 / 7))
    config = TrainConfig(
        epochs=more.pop("epochs", 1),
        batch_size=batch,
        optimizer="adamw",
        precision=precision,
        workers=more.pop("workers", 0),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the lines of epochs
        metrics = fit(model, samples, samples[: len(photos)], spec, config, **more)
    return model, metrics


def _clock() -> Any:
    """Return a callback that notes when each batch begins and has ended, on the device as well."""
    from numclip.torchvision_compat import import_torchvision

    import_torchvision()
    import pytorch_lightning as pl
    import torch

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.starts: list[float] = []  # a batch is there
            self.stamps: list[float] = []  # it has ended
            self.losses: list[float] = []

        def on_train_batch_start(self, *arguments: Any) -> None:
            self.starts.append(perf_counter())

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, *arguments: Any
        ) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.stamps.append(perf_counter())
            self.losses.append(float(outputs["loss"]))

    return Clock()


def _speed(settings: Settings, photos: list[str], precision: str) -> dict[str, Any]:
    """Time the steps of an epoch; every loss must be finite."""
    import math

    import torch

    clock, batch = _clock(), 2 if settings.rehearse else _BATCH
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    _fit(
        photos,
        precision,
        full=not settings.rehearse,
        batch=batch,
        count=batch * _STEPS,
        workers=0 if settings.rehearse else min(8, os.cpu_count() or 1),
        callbacks=[clock],
    )
    expect(len(clock.stamps) == _STEPS, f"{len(clock.stamps)} steps and not {_STEPS}")
    expect(all(map(math.isfinite, clock.losses)), f"losses are not finite: {clock.losses}")
    timed = clock.stamps[_SKIPPED:]
    steps = [after - before for before, after in pairwise(timed)]
    waits = [there - done for done, there in zip(timed, clock.starts[_SKIPPED + 1 :], strict=False)]
    return {
        "batch": batch,
        "samples_per_s": round(batch * len(steps) / (timed[-1] - timed[0]), 1),
        "step_ms": round(1e3 * median(steps), 2),
        "of_it_waiting_for_images_ms": round(1e3 * median(waits), 2),
        "first_loss": clock.losses[0],
        "last_loss": clock.losses[-1],
        "peak_device_mb": round(torch.cuda.max_memory_allocated() / 1e6) if gpu else None,
    }


def _stopper() -> Any:
    """Return a callback that interrupts the run in the middle of an epoch, as Ctrl-C does."""
    from numclip.torchvision_compat import import_torchvision

    import_torchvision()
    import pytorch_lightning as pl

    class Stopper(pl.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.current_epoch == _STOPPED_IN and batch_idx == 1:
                raise KeyboardInterrupt

    return Stopper()


def _resumed(settings: Settings, photos: list[str], precision: str) -> dict[str, Any]:
    """Train a small network whole, twice, and once interrupted and resumed; compare the weights."""
    import torch

    small: dict[str, Any] = {"full": False, "batch": 8, "count": 32, "epochs": _EPOCHS}
    folder = Path(settings.work) / "training" / precision
    shutil.rmtree(folder, ignore_errors=True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole, again = (_fit(photos, precision, **small)[0].state_dict() for _ in range(2))
        with contextlib.suppress(KeyboardInterrupt):
            _fit(photos, precision, **small, run_dir=folder, callbacks=[_stopper()])
            raise AssertionError("the run was not interrupted")
        model, _ = _fit(photos, precision, **small, run_dir=folder, resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    resumed = model.state_dict()
    start = _fit(photos, precision, **{**small, "epochs": 1})[0].state_dict()
    noise, difference = _largest(whole, again), _largest(whole, resumed)
    expect(_largest(whole, start) > 0, "the training changed nothing")
    expect(
        difference <= _NOISE * noise,
        f"the resumed run's weights differ by {difference:.3g}, two whole runs' by {noise:.3g}",
    )
    return {"difference": difference, "difference_of_two_whole_runs": noise}


def _largest(one: Any, other: Any) -> float:
    """Return the largest difference between the weights of two models."""
    return max(float((one[n].float() - other[n].float()).abs().max()) for n in one)
