"""Make `tiny.onnx`, a model of one formula, and `foreign.onnx`, the same without metadata.

The graph: m = the colour planes' means, weighted; logits = SLOPES * m + BIASES; bin_probs =
softmax(logits); values = bin_probs @ CENTRES. Brighter pictures give larger values, and the
unequal weights show a wrong channel order. Run as: python tests/data/make_tiny.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from numclip_runtime.metadata import (
    BIN_PROBS_NAME,
    INPUT_NAME,
    METADATA_KEY,
    VALUES_NAME,
    ModelMetadata,
    Preprocessing,
)
from numclip_runtime.task import Task

CHANNEL_WEIGHTS = (0.5, 0.3, 0.2)  # R, G, B
SLOPES = (-6.0, 0.0, 6.0)
BIASES = (0.0, 2.0, 0.0)
CENTRES = (5.0, 15.0, 25.0)
METADATA = ModelMetadata(
    task=Task(
        name="brightness",
        unit="points",
        bin_edges=(0.0, 10.0, 20.0, 30.0),
        phrases=("dark", "medium", "bright"),
    ),
    preprocessing=Preprocessing(crop=8, resize=10, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
)


def tiny_model() -> ModelProto:
    """Build the graph; versions are pinned, so that the bytes are the same for every onnx."""
    size, bins = METADATA.preprocessing.crop, METADATA.task.num_bins
    weights = np.outer(CHANNEL_WEIGHTS, SLOPES).astype(np.float32)  # (3, K)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [INPUT_NAME], ["planes"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["planes", "weights", "biases"], ["logits"]),
            helper.make_node("Softmax", ["logits"], [BIN_PROBS_NAME], axis=1),
            helper.make_node("MatMul", [BIN_PROBS_NAME, "centres"], [VALUES_NAME]),
        ],
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["B", 3, size, size])],
        [
            helper.make_tensor_value_info(VALUES_NAME, TensorProto.FLOAT, ["B"]),
            helper.make_tensor_value_info(BIN_PROBS_NAME, TensorProto.FLOAT, ["B", bins]),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(BIASES, np.float32), "biases"),
            numpy_helper.from_array(np.array(CENTRES, np.float32), "centres"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def tiny_files() -> dict[str, bytes]:
    """Return file name -> bytes."""
    model = tiny_model()
    foreign = model.SerializeToString(deterministic=True)
    helper.set_model_props(model, {METADATA_KEY: METADATA.to_json()})
    return {"tiny.onnx": model.SerializeToString(deterministic=True), "foreign.onnx": foreign}


if __name__ == "__main__":
    for name, content in tiny_files().items():
        path = Path(__file__).with_name(name)
        path.write_bytes(content)
        sys.stdout.write(f"{path.name}: {len(content)} bytes\n")
