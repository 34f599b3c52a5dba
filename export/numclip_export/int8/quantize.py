"""Write a graph's linear layers in INT8, in the form that a target runs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from numclip_export.graph.names import module_of, new_name
from numclip_export.int8.layers import Array, Constants, Linear

STATIC_INT8_OPSET = 19  # the first whose QuantizeLinear takes float16
SMALLEST_SCALE = 2.0**-20  # float16 holds it with 4 bits; what is rounded off is below 1e-6
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

    with tempfile.TemporaryDirectory() as folder, without_advice():
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


@contextmanager
def without_advice() -> Iterator[None]:
    """Silence onnxruntime's advice to preprocess, which logs to the root logger."""
    logger, advice = logging.getLogger(), "Please consider "

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(advice)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


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
    constants, taken = Constants(model), {node.name for node in model.graph.node}
    zero = constants.put("int8_zero", np.zeros((), np.int8))
    by_node = {layer.node: layer for layer in layers}
    quantised: dict[str, str] = {}  # activation -> its dequantised twin
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        layer = by_node.get(node.name)
        if layer is not None:
            module = module_of(layer.node)
            if layer.activation not in quantised:
                step = scales_of(np.max(ranges[layer.activation]))
                scale = constants.put(f"{layer.activation}/scale", step)
                nodes += _activation_pair(layer.activation, scale, zero, module, taken)
                quantised[layer.activation] = nodes[-1].output[0]
            nodes.append(_dequantised_weight(layer, constants, module, taken))
            node.input[0], node.input[1] = quantised[layer.activation], nodes[-1].output[0]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    constants.drop_unused()
    return model


def scales_of(largest: npt.ArrayLike) -> Array:
    """Return the steps that cover magnitudes up to `largest`, float32, same shape.

    They are numbers that float16 holds, because the graph around them becomes float16: a smaller
    step would become 0 there, which TensorRT refuses.
    """
    steps = np.maximum(np.asarray(largest, np.float32) / LARGEST, SMALLEST_SCALE)
    return steps.astype(np.float16).astype(np.float32)


def _activation_pair(
    tensor: str, scale: str, zero: str, module: str, taken: set[str]
) -> list[onnx.NodeProto]:
    before, after = tensor, f"{tensor}/int8"
    pair = []
    for op_type, result in (("QuantizeLinear", after), ("DequantizeLinear", f"{tensor}/again")):
        name = new_name(module, op_type, taken)
        pair.append(helper.make_node(op_type, [before, scale, zero], [result], name))
        before = result
    return pair


def _dequantised_weight(
    layer: Linear, constants: Constants, module: str, taken: set[str]
) -> onnx.NodeProto:
    """Store a weight in INT8 and return the node that gives it back, one scale per output."""
    weight = constants.get(layer.weight)
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.output_axis)
    largest = np.abs(weight).max(others)  # (outputs,)
    scale = scales_of(largest)
    shape = [-1 if axis == layer.output_axis else 1 for axis in range(weight.ndim)]
    stored = np.rint(weight / scale.reshape(shape)).clip(-LARGEST, LARGEST).astype(np.int8)
    names = [
        constants.put(f"{layer.node}/weight_int8", stored),
        constants.put(f"{layer.node}/weight_scale", scale),
        constants.put(f"{layer.node}/weight_zero", np.zeros(len(scale), np.int8)),
    ]
    name = new_name(module, "DequantizeLinear", taken)
    output = f"{layer.node}/weight"
    return helper.make_node("DequantizeLinear", names, [output], name, axis=layer.output_axis)
