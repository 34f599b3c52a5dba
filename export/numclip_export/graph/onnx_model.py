"""Write a folded model as ONNX, with its metadata inside."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from numclip_export.fold import FoldedModel
from numclip_export.graph.names import name_nodes
from numclip_export.graph.types import FLOATS
from numclip_runtime import ModelMetadata
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, METADATA_KEY, VALUES_NAME

FUSED_ATTENTION_OPSET = 23  # the first with an Attention operator
DEFAULT_OPSET = 18  # keeps LayerNormalization one operator, and TensorRT 10.3 reads it


def onnx_from_folded(
    folded: FoldedModel, crop: int, *, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """Export a folded model with a dynamic batch.

    Args:
        folded: Model in eval mode, on the CPU.
        crop: Image side H = W, pixels.
        opset: ONNX operator set, at least 18: torch writes no older one by itself.

    Returns:
        A graph from `images` (B, 3, H, W) float32 to `values` (B,) and `bin_probs` (B, K) float32.
    """
    with _quiet():
        program = torch.onnx.export(
            folded,
            (torch.zeros(2, 3, crop, crop),),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[VALUES_NAME, BIN_PROBS_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    name_nodes(model)
    for node in model.graph.node:  # exporter's notes: source paths of the machine that exported
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes on its own internals; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def metadata_entry(metadata: ModelMetadata) -> bytes:
    """Return the bytes that, appended to an ONNX file without metadata, put `metadata` inside.

    Concatenated protobuf messages are one message, so the bytes of the graph stay as they are.
    """
    holder = onnx.ModelProto()
    onnx.helper.set_model_props(holder, {METADATA_KEY: metadata.to_json()})
    content: bytes = holder.SerializeToString()
    return content


def save_with_metadata(model: onnx.ModelProto, metadata: ModelMetadata, path: Path) -> int:
    """Write the model with `metadata` in its `metadata_props`, in place of any before.

    Returns:
        How many bytes come before the metadata, which are the end of the file.
    """
    del model.metadata_props[:]
    with path.open("wb") as file:
        size = file.write(model.SerializeToString())
        file.write(metadata_entry(metadata))
    return size


def parameter_count(model: onnx.ModelProto) -> int:
    """Count the numbers stored in the graph's floating-point initializers."""
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type in FLOATS)


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count the graph's nodes by operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())
