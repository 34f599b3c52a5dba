"""A backend that works without the CPU, as a GPU does, and tells what was asked of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from numclip_runtime.metadata import Arithmetic
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.preprocess import FloatArray, InputArray


class SlowBackend:
    """Answers 5 for every image, once `work` is done."""

    name = "slow"
    provider = "none"
    notes = ()

    def __init__(self, model: Path, *, lanes: int = 1, device: str = "cpu") -> None:
        self.metadata = read_onnx_metadata(model)
        self.lanes, self.device = lanes, device
        self.threads: int | None = 1
        self.max_batch: int | None = None
        self.precision: Arithmetic = self.metadata.precision
        self.work: Callable[[InputArray], Any] = lambda images: None
        self.runs = self.most = self._now = 0  # runs so far, at a time, at this moment
        self.closed = False
        self._lock = threading.Lock()

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        assert not self.closed
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.work(images)
        with self._lock:
            self._now -= 1
            self.runs += 1
        assert not self.closed, "freed under a running inference"
        bins = self.metadata.task.num_bins
        return np.full(len(images), 5, np.float32), np.full(
            (len(images), bins), 1 / bins, np.float32
        )

    def close(self) -> None:
        self.closed = True
