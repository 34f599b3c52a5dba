"""Make a graph fit for compute capability 7.5, where TensorRT-RTX has no FP32 matrix products.

TensorRT-RTX 1.7 refuses them (1.4 to 1.6 did not). The tower's products must be float16 for that.
Those of the head stay FP32, because exp(logit_scale) of about 100 amplifies rounding, and they are
small: each becomes an elementwise product and a sum, which is the same number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from numclip_export.graph.edit import Constants, set_nodes
from numclip_runtime import ModelError

FLOAT = onnx.TensorProto.FLOAT


def model_for_turing(content: bytes, path: Path) -> tuple[bytes, int]:
    """Replace the FP32 matrix products of an ONNX file's head.

    If other FP32 products remain, that would not help: the file is returned as it is.

    Args:
        content: Of the file.
        path: Named in errors.

    Returns:
        The serialised model, and the number of products replaced.

    Raises:
        ModelError: if the file is not an ONNX model.
    """
    try:
        model = onnx.load_from_string(content)
        replaced, remaining = replace_head_products(model)
    except Exception as error:  # protobuf's and onnx's own types share no base class
        raise ModelError(f"{path}: onnx cannot read it ({error}).") from None
    return (content, 0) if remaining else (model.SerializeToString(), replaced)


def replace_head_products(model: onnx.ModelProto) -> tuple[int, list[str]]:
    """Replace FP32 products of rows (B, D) with constants (D, K) or (D,), in place.

    Args:
        model: Of operator set 13 or later.

    Returns:
        How many were replaced, and the names of the other nodes with FP32 matrix products.
    """
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type for value in values}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced, remaining = 0, []
    for node in model.graph.node:
        kind = types.get(node.output[0])
        is_product = node.op_type in ("MatMul", "Gemm", "Einsum")
        if not is_product or (kind is not None and kind.elem_type not in (FLOAT, 0)):
            nodes.append(node)
            continue
        rows = types.get(node.input[0])
        rank = len(rows.shape.dim) if rows is not None and rows.HasField("shape") else 0
        weight = _weight(node, constants) if rank == 2 else None
        if weight is None:
            nodes.append(node)
            remaining.append(node.name or node.output[0])
            continue
        nodes += _product_and_sum(node, weight, model)
        replaced += 1
    set_nodes(model.graph, nodes)
    Constants(model).drop_unused()
    return replaced, remaining


def _weight(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """Return the constant operand with D last, (K, D) or (D,); None for other products."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
        return None
    array = numpy_helper.to_array(constants[node.input[1]])
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if options.get("transA") or options.get("beta", 1.0) != 1 or array.ndim > 2:
        return None
    weight = array if options.get("transB") else array.T
    return np.ascontiguousarray(weight * np.float32(options.get("alpha", 1.0)), np.float32)


def _product_and_sum(
    node: onnx.NodeProto,
    weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    model: onnx.ModelProto,
) -> list[onnx.NodeProto]:
    out = node.output[0]

    def constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        model.graph.initializer.append(numpy_helper.from_array(array, f"{out}_{name}"))
        return f"{out}_{name}"

    rows, parts = node.input[0], []
    if weight.ndim == 2:
        axis = constant("new_axis", np.array([1], np.int64))
        parts.append(helper.make_node("Unsqueeze", [rows, axis], [f"{out}_rows"]))  # (B, 1, D)
        rows = f"{out}_rows"
    weights = constant("weights", weight)
    parts.append(helper.make_node("Mul", [rows, weights], [f"{out}_terms"]))  # (B, K, D)
    last = constant("last_axis", np.array([-1], np.int64))
    has_bias = len(node.input) > 2 and node.input[2] != ""
    total = f"{out}_sum" if has_bias else out
    parts.append(helper.make_node("ReduceSum", [f"{out}_terms", last], [total], keepdims=0))
    if has_bias:
        parts.append(helper.make_node("Add", [total, node.input[2]], [out]))
    for index, part in enumerate(parts):
        part.name = f"{node.name or out}_{index}"
    return parts
