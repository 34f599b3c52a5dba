"""Fixtures: a model whose delays are known, a clock that only it moves, and a few photos."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench import stages
from numclip_runtime import ModelMetadata, Predictor, Preprocessing, Task
from numclip_runtime.backends import Backend
from numclip_runtime.metadata import Arithmetic
from numclip_runtime.preprocess import FloatArray

ROOT = Path(__file__).parents[2]
METADATA = ModelMetadata(
    task=Task(name="age", unit="years", bin_edges=(0, 10, 20), phrases=("young", "old")),
    preprocessing=Preprocessing(crop=8, resize=8),
)


class Wait(Protocol):
    def __call__(self, seconds: float, /) -> None: ...


class Clock:
    """A clock in ns that stands still until a test waits."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Wait, and a little at least, as the system does."""
        self.wait(max(seconds, 1e-5))


class DelayedBackend:
    """A backend whose nth run takes delays_ms[n]; the last delay repeats for ever."""

    name = "delayed"
    provider = "none"
    device = "none"
    notes = ()
    lanes = 1
    threads: int | None = None
    max_batch: int | None = None
    precision: Arithmetic = METADATA.precision
    metadata = METADATA

    def __init__(self, delays_ms: list[float], wait: Wait) -> None:
        self._delays: Iterator[float] = chain(delays_ms, repeat(delays_ms[-1]))
        self._wait = wait
        self.batches: list[int] = []  # B of each run

    def run(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        self._wait(next(self._delays) / 1e3)
        self.batches.append(len(images))
        return np.full(len(images), 5, np.float32), np.full((len(images), 2), 0.5, np.float32)

    def close(self) -> None:
        pass


def predictor_of(backend: Backend) -> Predictor:
    return Predictor(backend)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the measurement."""
    clock = Clock()
    monkeypatch.setattr(stages, "perf_counter_ns", clock)
    return clock


@pytest.fixture
def tiny() -> Path:
    return ROOT / "tests" / "data" / "tiny.onnx"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 5 small images, 0.png to 4.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (20, 10), (50 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of the real model, with random weights and tiny towers."""
    torch = pytest.importorskip("torch")
    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.model.model_config import ModelConfig
    from numclip.model.numclip import NumClip

    torch.manual_seed(0)
    tower = {"layers": 1, "width": 64}
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 8, "patch_size": 4, "head_width": 32, **tower},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower},
        "quick_gelu": False,
    }
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    model = NumClip(ModelConfig(clip), METADATA.task)
    save_checkpoint(path, Checkpoint(model, METADATA.preprocessing))
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path) -> Path:
    """Export the checkpoint as float32 ONNX, beside it."""
    pytest.importorskip("onnxscript")
    from numclip_export import ExportOptions, run_export

    path = checkpoint.with_suffix(".onnx")
    run_export(ExportOptions(checkpoint, path, verify=False))
    return path
