"""Let the patch embedding of a vision transformer multiply the pixels themselves, in INT8.

A patch embedding is a convolution whose stride is its kernel: each patch is a row of 3 p^2 numbers,
and all patches are one matrix product. Its activations are pixels, whole numbers from 0 to 255, so
INT8 rounds nothing on that side; normalisation moves into the weights and the bias. On a CPU the
network then reads pixels, and saves the normalisation and a float32 convolution (2.6 of 30 ms in
ViT-B/32 on one thread, 0.6 after).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from numclip_export.graph.edit import Constants, copy_of, readers, set_nodes
from numclip_export.graph.names import module_of, new_name
from numclip_export.int8.quantize import LARGEST
from numclip_runtime import Preprocessing
from numclip_runtime.metadata import INPUT_NAME


def with_pixel_stem(model: onnx.ModelProto, spec: Preprocessing) -> onnx.ModelProto | None:
    """Return a copy whose `images` are RGB pixels, (B, H, W, 3) uint8, multiplied in INT8.

    Args:
        model: Graph whose `images` are (B, 3, H, W) float32, normalised; named nodes.
        spec: Mean and standard deviation of the normalisation, and H = W.

    Returns:
        None where the graph does not begin with a patch embedding.
    """
    result = copy_of(model)
    graph = result.graph
    found = _patch_embedding(result)
    if found is None:
        return None
    conv, flatten, transpose = found
    constants = Constants(result)
    kernel = constants.get(conv.input[1]).astype(np.float64)  # (O, 3, p, p)
    size = kernel.shape[-1]
    if spec.crop % size:  # pixels at two borders belong to no patch
        return None
    across = spec.crop // size  # patches along a side
    # pixel / 255 - mean, over std: the factor goes into the weights, per colour
    kernel /= 255 * np.array(spec.std)[:, None, None]
    weight = kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))  # (p p 3, O)
    scale = np.maximum(np.abs(weight).max(0), np.finfo(np.float32).tiny) / LARGEST  # (O,)
    stored = np.rint(weight / scale).astype(np.int8)
    # The mean is subtracted with the rounded weights, so that the weights' rounding errors are
    # multiplied by a pixel's distance from the mean only.
    bias = -(np.tile(255 * np.array(spec.mean), size * size) @ (stored * scale))  # (O,)
    if len(conv.input) > 2:
        bias = bias + constants.get(conv.input[2])
    numbers = {
        "cut": np.array([0, across, size, across, size, 3]),
        "rows": np.array([0, across * across, 3 * size * size]),
        "weight": stored,
        "pixel_zero": np.zeros((), np.uint8),
        "weight_zero": np.zeros(len(scale), np.int8),
        "scale": scale.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    names = {key: constants.put(f"stem/{key}", value) for key, value in numbers.items()}
    module, taken = module_of(conv.name), {node.name for node in graph.node}
    tensors = [INPUT_NAME, *(f"stem/{i}" for i in range(6)), transpose.output[0]]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Reshape", [names["cut"]], {}),  # (B, rows, p, columns, p, 3)
        ("Transpose", [], {"perm": [0, 1, 3, 2, 4, 5]}),
        ("Reshape", [names["rows"]], {}),  # (B, N, p p 3)
        ("MatMulInteger", [names["weight"], names["pixel_zero"], names["weight_zero"]], {}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Mul", [names["scale"]], {}),
        ("Add", [names["bias"]], {}),  # (B, N, O)
    ]
    front = [
        helper.make_node(op, [before, *more], [after], new_name(module, op, taken), **attributes)
        for (op, more, attributes), before, after in zip(
            steps, tensors[:-1], tensors[1:], strict=True
        )
    ]
    gone = {conv.name, flatten.name, transpose.name}
    set_nodes(graph, [*front, *(node for node in graph.node if node.name not in gone)])
    (images,) = (value for value in graph.input if value.name == INPUT_NAME)
    batch = images.type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value, spec.crop, spec.crop, 3]
    images.CopyFrom(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    constants.drop_unused()
    return result


def _patch_embedding(
    model: onnx.ModelProto,
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """Return the convolution, and the two nodes that make rows of patches of its output."""
    read_by = readers(model)
    convs = [node for node in read_by.get(INPUT_NAME, []) if node.op_type == "Conv"]
    others = [n for n in read_by.get(INPUT_NAME, []) if n.op_type not in ("Conv", "Shape")]
    if len(convs) != 1 or others:
        return None
    (conv,) = convs
    given = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    kernel = list(given.get("kernel_shape", []))
    if (
        list(given.get("strides", [])) != kernel
        or len(set(kernel)) != 1
        or any(given.get("pads", []))
        or given.get("group", 1) != 1
        or set(given.get("dilations", [1])) != {1}
    ):
        return None
    chain = [conv]
    for expected in ("Reshape", "Transpose"):
        following = read_by.get(chain[-1].output[0], [])
        if len(following) != 1 or following[0].op_type != expected:
            return None
        chain.append(following[0])
    perm = [list(a.ints) for a in chain[2].attribute if a.name == "perm"]
    return (chain[0], chain[1], chain[2]) if perm == [[0, 2, 1]] else None
