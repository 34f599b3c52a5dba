"""Types and shapes of an ONNX graph's tensors, and the precision in which its nodes compute."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto

from numclip_export.graph.names import in_image_encoder

FLOATS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Infer the element type (of TensorProto) of every tensor in the graph.

    Raises:
        onnx.shape_inference.InferenceError: if the types contradict each other.
    """
    graph = onnx.shape_inference.infer_shapes(_without_weights(model), strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def tensor_shapes(model: onnx.ModelProto, *, batch: int) -> dict[str, tuple[int, ...]]:
    """Infer the shape of every tensor for a batch size; 0 stands for an unknown side."""
    light = _without_weights(model)
    for value in light.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy types and shapes only: 600 MB of weights would be copied four times."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            graph.initializer.append(tensor)  # shapes follow from their numbers
    return light


def node_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """Return node name -> "fp32" or "fp16": the type of the tensors that it computes.

    Casts and nodes that compute no floating-point numbers (shapes, indices) are left out.
    """
    types = tensor_types(model)
    found = {}
    for node in model.graph.node:
        kinds = {FLOATS[t] for name in node.output if (t := types.get(name)) in FLOATS}
        if kinds and node.op_type != "Cast":
            found[node.name] = kinds.pop()
    return found


def precision_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Count the nodes that compute in each precision."""
    return dict(sorted(Counter(node_precisions(model).values()).items()))


def features_name(model: onnx.ModelProto) -> str:
    """Return the tensor that leaves the image encoder, (B, D).

    Casts are looked through: of a feature tensor in two types, the one the encoder computes.
    """
    inside: set[str] = set()
    leaving: list[str] = []
    for node in model.graph.node:
        if in_image_encoder(node.name):
            inside.update(node.output)
        else:
            leaving += [name for name in node.input if name in inside]
    assert len(set(leaving)) == 1, f"one tensor must leave the image encoder, found {leaving}"
    return leaving[0]
