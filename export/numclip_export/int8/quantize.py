"""Write a graph's linear layers in INT8, in the form that a target runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from numclip_export.int8.linear import Array, Constants, Linear

STATIC_INT8_OPSET = 19  # the first whose QuantizeLinear takes float16
LARGEST = 127  # symmetric: -127 to 127, zero is exact


def dynamic_int8(model: onnx.ModelProto, layers: list[Linear]) -> onnx.ModelProto:
    """Quantise for onnxruntime on the CPU: weights now, activations at run time.

    A dynamic scale is that of the whole batch, so an image's numbers depend a little on its batch
    mates; batch 1 has no such effect.

    Args:
        model: float32 graph.
        layers: What to quantise; Conv is left as it is.

    Returns:
        A graph with INT8 weights, one scale per output channel.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=[layer.node for layer in layers if layer.op != "Conv"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(target)


def static_int8(
    model: onnx.ModelProto, layers: list[Linear], ranges: Mapping[str, Array]
) -> onnx.ModelProto:
    """Quantise for TensorRT, with explicit QuantizeLinear and DequantizeLinear; in place.

    Symmetric on both sides, zero points 0, one scale per activation and one per output channel of a
    weight; biases and outputs stay as they are.

    Args:
        model: float32 graph.
        layers: What to quantise.
        ranges: Largest magnitude of each channel, (C,), by activation tensor.

    Returns:
        The same model.
    """
    constants = Constants(model)
    zero = constants.put("int8_zero", np.zeros((), np.int8))
    by_node = {layer.node: layer for layer in layers}
    quantised: dict[str, str] = {}  # activation -> its dequantised twin
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        layer = by_node.get(node.name)
        if layer is not None:
            if layer.activation not in quantised:
                largest = float(np.max(ranges[layer.activation]))
                scale = np.float32(max(largest, 1e-12) / LARGEST)
                pair = _activation_pair(
                    layer.activation,
                    constants.put(f"{layer.activation}/scale", np.asarray(scale)),
                    zero,
                )
                nodes += pair
                quantised[layer.activation] = pair[-1].output[0]
            weight = _dequantised_weight(layer, constants)
            nodes.append(weight)
            node.input[0], node.input[1] = quantised[layer.activation], weight.output[0]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    constants.drop_unused()
    return model


def _activation_pair(tensor: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node(
            "QuantizeLinear", [tensor, scale, zero], [f"{tensor}/int8"], f"{tensor}/QuantizeLinear"
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{tensor}/int8", scale, zero],
            [f"{tensor}/dequantised"],
            f"{tensor}/DequantizeLinear",
        ),
    ]


def _dequantised_weight(layer: Linear, constants: Constants) -> onnx.NodeProto:
    """Store a weight in INT8 and return the node that gives it back, one scale per output."""
    weight = constants.get(layer.weight)
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.output_axis)
    largest = np.abs(weight).max(others)  # (outputs,)
    scale = (np.where(largest > 0, largest, 1) / LARGEST).astype(np.float32)
    shape = [-1 if axis == layer.output_axis else 1 for axis in range(weight.ndim)]
    stored = np.rint(weight / scale.reshape(shape)).clip(-LARGEST, LARGEST).astype(np.int8)
    names = [
        constants.put(f"{layer.node}/weight_int8", stored),
        constants.put(f"{layer.node}/weight_scale", scale),
        constants.put(f"{layer.node}/weight_zero", np.zeros(len(scale), np.int8)),
    ]
    return helper.make_node(
        "DequantizeLinear",
        names,
        [f"{layer.node}/weight"],
        f"{layer.node}/DequantizeLinear",
        axis=layer.output_axis,
    )
