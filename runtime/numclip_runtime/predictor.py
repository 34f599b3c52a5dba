"""The predictor: images in, numbers out."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from numclip_runtime.backends import (
    Backend,
    BackendName,
    DeviceKind,
    OptimizeFor,
    open_backend,
)
from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.close_guard import Gate
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_file import ModelFile
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

    Threads may share it. A copy, also one that was pickled and sent to another process, opens the
    model again when it is first used, from the same path and with the same options; that takes a
    predictor made by `load`. Give a copy to each process once, not with each image.

    Args:
        backend: Opened backend; the predictor owns it and closes it.
        fast_decode: See `load`.
    """

    def __init__(self, backend: Backend, *, fast_decode: bool = False) -> None:
        self._backend: Backend | None = backend
        self.fast_decode = fast_decode
        self._file: ModelFile | None = None  # where it came from, and
        self._options: dict[str, Any] = {}  # how it was opened; see `load`
        self._prepare()

    def _prepare(self) -> None:
        """Make what is not copied."""
        self._opening = threading.Lock()
        self._gate = Gate("this predictor was closed; load the model again.")

    @property
    def backend(self) -> Backend:
        """What runs the network; a copy of a predictor opens it now.

        Raises:
            ModelError: if the model's file is not the same any more; and see `load`.
            UsageError: if a copy was closed before its first use.
        """
        with self._opening:
            if self._backend is None:
                assert self._file is not None
                with self._gate:
                    self._file.check()
                    self._backend = open_backend(self._file.path, **self._options)
            return self._backend

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
            UsageError: if the predictor is closed.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Predict several images in one run of the network; see `predict`."""
        if not images:
            return []
        inputs = [self.preprocess(image) for image in images]
        return self.predict_inputs(inputs[0][None] if len(inputs) == 1 else np.stack(inputs))

    def predict_inputs(self, inputs: InputArray) -> list[Prediction]:
        """Predict preprocessed inputs, (B, ...) of what `preprocess` returns."""
        backend = self.backend
        with self._gate:
            outputs = backend.run(inputs)
        return self.postprocess(*outputs)

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
        self,
        images: Iterable[ImageLike],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Generator[Prediction | ImageError, None, None]:
        """Predict many images in order, with decoding and inference side by side.

        Memory stays flat: at most `(lanes + 2) * batch_size + 2 * workers` images are in flight,
        `lanes` of the backend; `plan_stream` says what is chosen. A result is not held back for
        images to come, but for the rest of its batch, and while the next image is waited for.

        Args:
            images: Any iterable of what `predict` takes. Consumed lazily, and only by the thread
                that takes the results.
            batch_size: Images per run of the network. None: 1 on a CPU, where more gain nothing,
                at most 16 on a GPU.
            workers: Threads that decode and preprocess. None: one per usable core. On a CPU they
                run the network as well, where the model was loaded with
                `optimize_for="throughput"` and the batch size is 1.

        Yields:
            One item per image, in order: its Prediction, or the ImageError that it met.

        Raises:
            UsageError: if a number is below 1, or the predictor is closed.
            GpuError: if the GPU fails. This, and what `images` raises, ends the stream.
        """
        from numclip_runtime.pipeline import plan_stream, stream  # 3 ms of every start

        plan = plan_stream(self.backend, batch_size, workers)
        return stream(images, plan, self.preprocess, self.predict_inputs)

    def close(self) -> None:
        """Free the model, once what other threads run has ended; a second time is fine.

        Predicting afterwards is a UsageError, also for streams that are under way.
        """
        self._gate.close()
        if self._backend is not None:
            self._backend.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            raise UsageError(
                "this predictor was made from a backend, so a copy could not open its model again; "
                "make it with numclip_runtime.load."
            )
        with self._gate:
            self._file.pin()
        return {**vars(self), "_backend": None, "_opening": None, "_gate": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

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
    optimize_for: OptimizeFor = "latency",
) -> Predictor:
    """Load an exported model.

    Args:
        model: Path of a `.onnx` or `.plan` file made by `numclip-export`. A plan is executable
            code: load only what you trust, see `sha256`.
        threads: CPU threads inside one inference; None: as `optimize_for` says.
        device: "auto" (a GPU where it can be used), "cpu" or "cuda". Where an ONNX file runs on the
            CPU although a GPU is there or was asked for, `backend.notes` of the predictor say why.
        backend: None: onnxruntime for ONNX files, tensorrt for plans.
        sha256: What the file's SHA-256 must be. A plan is compared with `<model>.sha256`, where
            that exists, if this is None.
        require_gpu: Raise rather than run on the CPU.
        optimize_for: How a CPU's cores are used. "latency": all of them inside one inference, for
            one image now and then. "throughput": one each for as many images, for `stream` and for
            predictions from many threads. A GPU takes no notice.
        fast_decode: Decode large JPEG files at 1/2, 1/4 or 1/8 size, at least twice as large as the
            network needs; `numclip-run --fast-decode` measures how much that moves the values.
            All other images are decoded exactly.

    Raises:
        ModelError: if the file is missing, broken, not made by numclip, or not the pinned one.
        MissingDependencyError: if the backend's package is not installed.
        GpuRequiredError: if a GPU is needed, and none that fits can be used.
        UsageError: if the arguments contradict each other or the model.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}.")
    options: dict[str, Any] = {
        "threads": threads,
        "device": device,
        "backend": backend,
        "sha256": sha256,
        "require_gpu": require_gpu,
        "optimize_for": optimize_for,
    }
    file = ModelFile(Path(model), sha256)
    predictor = Predictor(open_backend(Path(model), **options), fast_decode=fast_decode)
    predictor._file, predictor._options = file, options
    return predictor
