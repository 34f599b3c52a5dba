"""The predictor: images in, numbers out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from numclip_runtime.backends import Backend, BackendName, DeviceKind, open_backend
from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.preprocess import FloatArray, ImageLike, InputArray, network_input


@dataclass(frozen=True)
class Prediction:
    """What the model reads off one image."""

    value: float  # the number, in `unit`
    unit: str  # unit of value and interval; may be empty
    # (low, high), holds the true number in 9 of 10 images (DEFAULT_COVERAGE); None: not calibrated
    interval: tuple[float, float] | None
    bin: str  # phrase of the most probable bin
    bin_probs: dict[str, float]  # phrase -> probability, lowest bin first, sums to 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: {"value", "unit", "interval", "bin", "bin_probs"}."""
        return asdict(self)


class Predictor:
    """A loaded model. Use as a context manager, or call `close` when done.

    Args:
        backend: Opened backend; the predictor owns it and closes it.
        fast_decode: See `load`.
    """

    def __init__(self, backend: Backend, *, fast_decode: bool = False) -> None:
        self.backend = backend
        self.fast_decode = fast_decode

    @property
    def metadata(self) -> ModelMetadata:
        """Task, preprocessing and origin, as stored in the model file."""
        return self.backend.metadata

    @property
    def calibrated(self) -> bool:
        """Whether predictions carry an interval."""
        calibration = self.metadata.calibration
        return calibration is not None and DEFAULT_COVERAGE in calibration.coverages

    def predict(self, image: ImageLike) -> Prediction:
        """Predict one image.

        Args:
            image: Path, Pillow image, or uint8 array (H, W, 3) RGB or (H, W) grey.

        Raises:
            ImageError: if the image cannot be read.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Predict several images in one run of the network; see `predict`."""
        if not images:
            return []
        return self.predict_inputs(np.stack([self.preprocess(image) for image in images]))

    def predict_inputs(self, inputs: InputArray) -> list[Prediction]:
        """Predict preprocessed inputs, (B, ...) of what `preprocess` returns."""
        return self.postprocess(*self.backend.run(inputs))

    def preprocess(self, image: ImageLike) -> InputArray:
        """Decode and preprocess one image; (3, H, W) float32, or (H, W, 3) uint8."""
        return network_input(image, self.metadata, fast_decode=self.fast_decode)

    def postprocess(self, values: FloatArray, bin_probs: FloatArray) -> list[Prediction]:
        """Turn network outputs, (B,) values and (B, K) bin_probs, into predictions."""
        task, calibration = self.metadata.task, self.metadata.calibration
        ends = None if calibration is None else calibration.intervals(values, bin_probs, task)
        intervals = repeat(None) if ends is None else map(tuple, ends.tolist())
        return [
            Prediction(
                value=value,
                unit=task.unit,
                interval=interval,
                bin=task.phrases[best],
                bin_probs=dict(zip(task.phrases, probs, strict=True)),
            )
            # not strict: repeat() has no end, and the arrays have one length
            for value, interval, best, probs in zip(
                values.tolist(),
                intervals,
                bin_probs.argmax(1).tolist(),
                bin_probs.tolist(),
                strict=False,
            )
        ]

    def stream(
        self, images: Iterable[ImageLike], *, batch_size: int = 1, workers: int = 1
    ) -> Iterator[Prediction | ImageError]:
        """Predict many images in order, decoding the next while the network runs.

        Memory stays flat: at most `2 * batch_size + workers` images are in flight.

        Args:
            images: Any iterable of what `predict` takes; consumed lazily.
            batch_size: Images per run of the network.
            workers: Threads that decode and preprocess.

        Yields:
            One item per image, in order: its Prediction, or the ImageError that it met.
        """
        if batch_size < 1 or workers < 1:
            raise UsageError(f"batch_size ({batch_size}) and workers ({workers}) must be >= 1.")
        source = iter(images)
        with ThreadPoolExecutor(workers, thread_name_prefix="numclip-decode") as pool:
            pending: deque[Future[InputArray | ImageError]] = deque()
            for image in islice(source, batch_size + workers):
                pending.append(pool.submit(self._try_preprocess, image))
            while pending:
                batch: list[InputArray | ImageError] = []
                for _ in range(min(batch_size, len(pending))):
                    batch.append(pending.popleft().result())
                    for image in islice(source, 1):
                        pending.append(pool.submit(self._try_preprocess, image))
                yield from self._finish(batch)

    def _try_preprocess(self, image: ImageLike) -> InputArray | ImageError:
        try:
            return self.preprocess(image)
        except ImageError as error:
            return error

    def _finish(self, batch: list[InputArray | ImageError]) -> Iterator[Prediction | ImageError]:
        inputs = [item for item in batch if not isinstance(item, ImageError)]
        predictions = iter(self.predict_inputs(np.stack(inputs)) if inputs else ())
        for item in batch:
            yield item if isinstance(item, ImageError) else next(predictions)

    def close(self) -> None:
        """Free the model."""
        self.backend.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    model: str | os.PathLike[str],
    *,
    threads: int | None = None,
    device: DeviceKind = "auto",
    backend: BackendName | None = None,
    sha256: str | None = None,
    require_gpu: bool = False,
    fast_decode: bool = False,
) -> Predictor:
    """Load an exported model.

    Args:
        model: Path of a `.onnx` or `.plan` file made by `numclip-export`. A plan is executable
            code: load only what you trust, see `sha256`.
        threads: CPU threads inside one inference; None lets the backend choose.
        device: "auto" (a GPU where it can be used), "cpu" or "cuda". Where an ONNX file runs on the
            CPU although a GPU is there or was asked for, `backend.notes` of the predictor say why.
        backend: None: onnxruntime for ONNX files, tensorrt for plans.
        sha256: What the file's SHA-256 must be. A plan is compared with `<model>.sha256`, where
            that exists, if this is None.
        require_gpu: Raise rather than run on the CPU.
        fast_decode: Decode large JPEG files at 1/2, 1/4 or 1/8 size, at least twice as large as the
            network needs; `numclip_runtime.drift` tells how much that moves the values. All other
            images are decoded exactly.

    Raises:
        ModelError: if the file is missing, broken, not made by numclip, or not the pinned one.
        MissingDependencyError: if the backend's package is not installed.
        GpuRequiredError: if a GPU is needed, and none that fits can be used.
        UsageError: if the arguments contradict each other or the model.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}.")
    return Predictor(
        open_backend(
            Path(model),
            threads=threads,
            device=device,
            backend=backend,
            sha256=sha256,
            require_gpu=require_gpu,
        ),
        fast_decode=fast_decode,
    )
