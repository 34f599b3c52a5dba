"""The predictor: images in, numbers out."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from itertools import repeat

import numpy as np

from numclip_runtime.backends import Backend, BackendName, OpenOptions, OptimizeFor, device_of
from numclip_runtime.backends.after_fork import forget_after_fork
from numclip_runtime.backends.close_guard import CloseGuard
from numclip_runtime.backends.origin import Origin as Origin
from numclip_runtime.backends.origin import open_with_origin
from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.names import model_path
from numclip_runtime.preprocess import FloatArray, ImageLike, InputArray, network_input
from numclip_runtime.remote.pictures import fetched_picture, with_objects
from numclip_runtime.results.prediction import PictureSource, located, picture_source, refuse_one
from numclip_runtime.results.prediction import Prediction as Prediction

_FROM_BACKEND = (
    "this predictor was made from a backend, so that its model is not known; make it with "
    "numclip_runtime.load."
)


class Predictor:
    """A loaded model, made by `load`. Use as a context manager, or call `close` when done.

    Threads may share it. A copy, also one that was pickled and sent to another process or came
    there by a fork, opens the model again when it is first used, from the same path and with the
    same options. Send a copy to each process once, not with each image.

    Args:
        model: Opened backend, which the predictor owns and closes; or the origin of one, which is
            opened at first use.
        fast_decode: See `OpenOptions`.
        origin: Of an opened backend; None: the predictor cannot be copied.
    """

    def __init__(
        self, model: Backend | Origin, *, fast_decode: bool = False, origin: Origin | None = None
    ) -> None:
        self._model = model
        self._origin = model if isinstance(model, Origin) else origin
        self.fast_decode = fast_decode
        self._opening = threading.Lock()
        self._guard = CloseGuard("this predictor was closed; load the model again.")
        forget_after_fork(self)

    @classmethod
    def open(cls, model: str | os.PathLike[str], options: OpenOptions) -> Predictor:
        """Load an exported model; see `load`."""
        backend, origin = open_with_origin(model_path(model), options)
        return cls(backend, fast_decode=options.fast_decode, origin=origin)

    @property
    def backend(self) -> Backend:
        """The backend that runs the network; a copy of a predictor opens it now.

        Raises:
            ModelError: if the model's file has changed; and see `load`.
            UsageError: if a copy was closed before its first use.
        """
        with self._opening:
            if isinstance(self._model, Origin):
                with self._guard:
                    self._model = self._model.reopen()
            return self._model

    @property
    def metadata(self) -> ModelMetadata:
        """Task, preprocessing and origin, as stored in the model file."""
        return self.backend.metadata

    @property
    def choice(self) -> str | None:
        """The artefact of a bundle that runs, and why; None: the model was given as a file."""
        return None if self._origin is None else self._origin.choice

    @property
    def name(self) -> str:
        """Name of the model file, or of the model on a server; "a backend" if it has none."""
        return "a backend" if self._origin is None else self._origin.file.path.name

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file; of a model on a Triton server, of what identifies it.

        Raises:
            ModelError: if the file has been replaced or removed since it was opened.
            UsageError: if the predictor was made from a backend.
        """
        if self._origin is None:
            raise UsageError(_FROM_BACKEND)
        return self._origin.file.pin()

    @property
    def calibrated(self) -> bool:
        """Whether predictions carry an interval."""
        calibration = self.metadata.calibration
        return calibration is not None and DEFAULT_COVERAGE in calibration.coverages

    def predict(self, image: ImageLike) -> Prediction:
        """Predict one image.

        Args:
            image: Path, address (s3://..., https://...), bytes of a file, binary file, Pillow
                image, or uint8 array (H, W, 3) RGB or (H, W) grey.

        Raises:
            ImageError: if the image cannot be read.
            TypeError: if it is none of these; several images go to `predict_batch` or `stream`.
            UsageError: if the predictor is closed.
        """
        return self._predict([image])[0]

    __call__ = predict

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Predict several images in one run of the network; see `predict`."""
        refuse_one(images, "predict_batch")
        return self._predict(images) if len(images) else []

    def _predict(self, images: Sequence[ImageLike]) -> list[Prediction]:
        images = [*with_objects(images)]
        inputs = [self.preprocess(image) for image in images]
        found = self.predict_inputs(inputs[0][None] if len(inputs) == 1 else np.stack(inputs))
        return [one.of(picture_source(image)) for one, image in zip(found, images, strict=True)]

    def predict_inputs(self, inputs: InputArray) -> list[Prediction]:
        """Predict preprocessed inputs: (B, ...), stacked results of `preprocess`."""
        backend = self.backend
        with self._guard:
            outputs = backend.run(inputs)
        return self.postprocess(*outputs)

    def preprocess(self, image: ImageLike) -> InputArray:
        """Decode and preprocess one image; (3, H, W) float32, or (H, W, 3) uint8."""
        return network_input(fetched_picture(image), self.metadata, fast_decode=self.fast_decode)

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
        images: Iterable[ImageLike | ImageError],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Generator[Prediction | ImageError, None, None]:
        """Predict many images in order, with decoding and inference side by side.

        Memory stays flat: at most `(lanes + 2) * batch_size + 2 * workers` images are in flight,
        with the backend's `lanes`; `plan_stream` makes the choices. A result does not wait for
        later images, except for the rest of its batch and for the next image of the source.

        Args:
            images: As for `predict`; an ImageError, from a source that could not read an image, is
                yielded in its place. Consumed lazily, only by the thread that takes the results;
                `numclip_runtime.remote.prefetch.prefetched` fetches addresses further ahead.
            batch_size: Images per run of the network. None: 1 on a CPU, at most 16 on a GPU.
            workers: Threads that decode and preprocess. None: one per usable core. On a CPU they
                also run the network if the model was loaded with `optimize_for="throughput"` and
                the batch size is 1.

        Yields:
            One result per image, in order: its Prediction, or the ImageError that it caused.

        Raises:
            UsageError: if a number is below 1, or the predictor is closed.
            TypeError: if `images` is a single image.
            GpuError: if the GPU fails. It ends the stream, as do StoreError and errors of `images`.
        """
        from numclip_runtime.pipeline import plan_stream, stream  # 3 ms of every start

        refuse_one(images, "stream")
        plan = plan_stream(self.backend, batch_size, workers)
        sources: deque[PictureSource] = deque()  # of the images in flight; those take memory

        def noted(image: ImageLike | ImageError) -> ImageLike | ImageError:
            sources.append(picture_source(image))
            return image

        pictures = map(noted, with_objects(images))
        results = stream(pictures, plan, self.preprocess, self.predict_inputs)
        return located(results, sources)

    def close(self) -> None:
        """Free the model once the runs of other threads have ended; idempotent.

        Predicting afterwards is a UsageError, also in streams that are under way.
        """
        self._guard.close(self._free)

    def forget(self) -> None:
        """In a forked process, open the model again at the next use: the copy has no threads."""
        self._opening = threading.Lock()
        self._guard.renew()
        if self._origin is not None:
            self._model = self._origin

    def _free(self) -> None:
        if not isinstance(self._model, Origin):
            self._model.close()

    def __reduce__(self) -> tuple[partial[Predictor], tuple[Origin]]:
        if self._origin is None:
            raise UsageError(_FROM_BACKEND)
        with self._guard:
            self._origin.file.pin()
        return partial(type(self), fast_decode=self.fast_decode), (self._origin,)

    def __repr__(self) -> str:
        model = self._model
        if isinstance(model, Origin):
            return f"<Predictor of {self.name}, opened at its first use>"
        task = model.metadata.task
        return (
            f"<Predictor of {self.name}: {task.name}{f' in {task.unit}' if task.unit else ''}, "
            f"{task.num_bins} bins, {model.name} on {model.device}>"
        )

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    model: str | os.PathLike[str],
    *,
    threads: int | None = None,
    device: str = "auto",
    backend: BackendName | None = None,
    sha256: str | None = None,
    require_gpu: bool = False,
    fast_decode: bool = False,
    optimize_for: OptimizeFor = "latency",
    bf16: bool | None = None,
) -> Predictor:
    """Load an exported model.

    The keyword arguments are the fields of `numclip_runtime.backends.OpenOptions`.

    Args:
        model: Path of a `.onnx` or `.plan` file made by `numclip-export`; of a bundle, a folder of
            which the best artefact for this machine is opened; the name of a model that comes with
            the package ("quality"); "hf://OWNER/NAME@REVISION", a model on the Hugging Face hub; or
            "triton://HOST:PORT/MODEL", one on a Triton server. A plan is executable code: load only
            plans that you trust, see `sha256`.

    Raises:
        ModelError: if the file is missing, broken, not made by numclip, or not the pinned one.
        MissingDependencyError: if the backend's package is not installed.
        GpuRequiredError: if a GPU is needed, and no suitable one can be used.
        UsageError: if the arguments contradict each other or the model.
    """
    options = OpenOptions(
        threads=threads,
        device=device_of(device),
        backend=backend,
        sha256=sha256,
        require_gpu=require_gpu,
        optimize_for=optimize_for,
        fast_decode=fast_decode,
        bf16=bf16,
    )
    return Predictor.open(model, options)
