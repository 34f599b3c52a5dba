"""ONNX Runtime backend."""

from __future__ import annotations

from pathlib import Path

from numclip_runtime.backends.onnx_header import metadata_props
from numclip_runtime.errors import MissingDependencyError, ModelError
from numclip_runtime.metadata import (
    BIN_PROBS_NAME,
    INPUT_NAME,
    METADATA_KEY,
    VALUES_NAME,
    ModelMetadata,
)
from numclip_runtime.preprocess import FloatArray, InputArray


class OnnxRuntimeBackend:
    """Run an ONNX file with onnxruntime on the CPU.

    Args:
        model: Path of a file that numclip exported.
        threads: Threads inside one inference; None leaves onnxruntime's choice (all cores).

    Raises:
        MissingDependencyError: if onnxruntime is not installed.
        ModelError: if the file is no ONNX model, or not one that numclip exported.
    """

    name = "onnxruntime"

    def __init__(self, model: Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise MissingDependencyError(
                "onnxruntime is not installed; install it with: pip install 'numclip[cpu]'"
            ) from None

        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: they are raised as well
        if threads is not None:
            options.intra_op_num_threads = threads
        text = metadata_props(model).get(METADATA_KEY)
        metadata = None if text is None else ModelMetadata.from_json(text, source=str(model))
        # With it, a float16 ViT of 2 blocks or more crashes the process (1.23 to 1.32, x86).
        half = metadata is not None and metadata.precision == "fp16"
        try:
            self._session = ort.InferenceSession(
                str(model),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["NchwcTransformer"] if half else None,
            )
        except Exception as error:  # onnxruntime's own exception types share no base class
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{model}: not a model that onnxruntime can load ({reason})."
            ) from None
        self.provider = str(self._session.get_providers()[0])

        if metadata is None:
            raise ModelError(
                f"{model}: holds no numclip metadata, so its bins and preprocessing are unknown; "
                "make the file with `numclip-export --ckpt x.pt`."
            )
        self.metadata = metadata
        names = {node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := {INPUT_NAME, VALUES_NAME, BIN_PROBS_NAME} - names:
            raise ModelError(
                f"{model}: the graph lacks {sorted(missing)}; it was changed after export."
            )

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        values, bin_probs = self._session.run([VALUES_NAME, BIN_PROBS_NAME], {INPUT_NAME: images})
        return values, bin_probs

    def close(self) -> None:
        """Free the session."""
        self._session = None  # closing twice is fine
