"""The layers that INT8 quantises, by the form of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx

from numclip_export.graph.names import in_image_encoder, module_of
from numclip_export.precision.mixed_precision_search import BLOCK

# dynamic: linear layers for onnxruntime on a CPU, activations measured at run time; asymmetric:
# linear layers for OpenVINO, measured beforehand; qdq: convolutions for a CPU, measured beforehand;
# static: TensorRT's Q/DQ
Int8Form = Literal["dynamic", "asymmetric", "qdq", "static"]
CHAIN = ("Conv", "Relu", "Add", "MaxPool", "AveragePool")  # quantised together
POOL = ".attnpool"  # attention at the end of CLIP's ResNets


@dataclass(frozen=True)
class Linear:
    """A matrix product, or convolution, with a constant weight."""

    node: str  # name
    op: str  # "MatMul", "Gemm" or "Conv"
    activation: str  # tensor that is multiplied
    weight: str  # initializer
    output_axis: int  # of the weight: 1 of MatMul's (in, out), 0 of Conv's (out, in, kh, kw)


def linear_layers(model: onnx.ModelProto, chosen: Callable[[str], bool]) -> list[Linear]:
    """Return the linear layers whose node name is chosen, in the graph's order.

    Args:
        model: Graph with named nodes.
        chosen: Returns whether the node of this name may be quantised.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or not chosen(node.name):
            continue
        if node.input[1] not in constants or node.input[0] in constants:
            continue  # a product of two activations, such as attention's
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        found.append(Linear(node.name, node.op_type, node.input[0], node.input[1], axis))
    return found


def quantisable(model: onnx.ModelProto, form: Int8Form) -> list[Linear]:
    """Return the linear layers of the blocks: neither the stem, nor the projection, nor the head.

    They are a few percent of the work, and rounding hurts most in the first and last layers. A
    CPU's convolutions are quantised in a chain from the pixels on: only so are they integer.
    """
    if form == "qdq":
        return convolutions(model)
    layers = linear_layers(model, lambda name: BLOCK.match(module_of(name)) is not None)
    return [layer for layer in layers if layer.op != "Conv" or form == "static"]


def convolutions(model: onnx.ModelProto) -> list[Linear]:
    """Return the image encoder's convolutions, in the graph's order."""
    return [layer for layer in linear_layers(model, in_image_encoder) if layer.op == "Conv"]


def chain_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the image encoder's convolutions and of the nodes between them."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type in CHAIN
        and in_image_encoder(node.name)
        and POOL not in module_of(node.name)
    ]
