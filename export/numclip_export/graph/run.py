"""Run a graph in memory on the CPU: outputs, image features, and how large its tensors become."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from numclip_export.graph.types import features_name, tensor_types
from numclip_export.precision.fp16_emulation import cpu_session, rounded_twin
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import FloatArray, InputArray

BATCH = 8


class GraphRun:
    """A graph whose float16 tensors are rounded for real; call it as `parity.Run`.

    Args:
        model: With float32 or float16 tensors or both; named nodes.
        features: Tensor that leaves the image encoder; None finds it by the nodes' names.
    """

    def __init__(self, model: onnx.ModelProto, features: str | None = None) -> None:
        twin = rounded_twin(model)
        self._features = features or features_name(model)
        _add_outputs(twin, [self._features])
        self._session = cpu_session(twin)

    def __call__(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Return values (B,) and bin_probs (B, K) for B images as the graph takes them."""
        values, bin_probs = self._session.run([VALUES_NAME, BIN_PROBS_NAME], {INPUT_NAME: images})
        return values, bin_probs

    def features(self, images: InputArray) -> FloatArray:
        """Return the image features (N, D) of any number of images."""
        parts = [
            self._session.run([self._features], {INPUT_NAME: images[start : start + BATCH]})[0]
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)


def largest_activations(model: onnx.ModelProto, images: InputArray) -> dict[str, float]:
    """Measure the largest magnitude in each float tensor that a float32 graph computes.

    Args:
        model: float32 graph.
        images: (N, ...) as the graph takes them.

    Returns:
        Tensor name -> largest absolute number over all images.
    """
    types = tensor_types(model)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    make = onnx.helper.make_node
    largest: dict[str, str] = {}  # tensor -> name of the scalar that measures it
    for node in model.graph.node:
        for name in node.output:
            if types.get(name) == TensorProto.FLOAT:
                largest[name] = f"{name}_largest"
                probe.graph.node.append(make("Abs", [name], [f"{name}_magnitude"]))
                probe.graph.node.append(
                    make("ReduceMax", [f"{name}_magnitude"], [largest[name]], keepdims=0)
                )
    _add_outputs(probe, list(largest.values()))
    session = cpu_session(probe)
    found = [
        session.run(list(largest.values()), {INPUT_NAME: images[start : start + BATCH]})
        for start in range(0, len(images), BATCH)
    ]
    return dict(zip(largest, np.max(np.array(found), axis=0).tolist(), strict=True))


def _add_outputs(model: onnx.ModelProto, names: list[str]) -> None:
    present = {value.name for value in model.graph.output}
    for name in names:
        if name not in present:
            value = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            model.graph.output.append(value)
