"""Let the graph normalise pixels itself: a quarter of the bytes to upload to a GPU."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from numclip_export.graph.edit import copy_of, replace_input, set_nodes
from numclip_runtime import Preprocessing
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.preprocess import normalisation

SCOPE = "input"  # of the new nodes' names


def with_uint8_input(model: onnx.ModelProto, spec: Preprocessing) -> onnx.ModelProto:
    """Return a copy whose `images` are RGB pixels, (B, H, W, 3) uint8.

    The normalisation is a product and a sum in float32, which engines fuse with the cast into one
    kernel. Folded into the first convolution instead, weights would be divided by
    255: in float16 many would fall below its smallest normal number.

    Args:
        model: Graph whose `images` are (B, 3, H, W) float32, normalised.
        spec: Mean and standard deviation of the normalisation.
    """
    result = copy_of(model)
    graph = result.graph
    (images,) = (value for value in graph.input if value.name == INPUT_NAME)
    batch, channels, height, width = images.type.tensor_type.shape.dim
    assert channels.dim_value == 3
    side = [height.dim_value, width.dim_value]
    shape = [batch.dim_param or batch.dim_value, *side, 3]
    images.CopyFrom(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    replace_input(graph.node, INPUT_NAME, "normalised")
    factor, shift = (numbers.reshape(1, 3, 1, 1) for numbers in normalisation(spec))
    for name, numbers in (("pixel_factor", factor), ("pixel_shift", shift)):
        graph.initializer.append(numpy_helper.from_array(numbers, name))
    front = [
        # The cast comes first: TensorRT has uint8 at the border of a network only.
        helper.make_node("Cast", [INPUT_NAME], ["wide_pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide_pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "pixel_factor"], ["scaled_planes"]),
        helper.make_node("Add", ["scaled_planes", "pixel_shift"], ["normalised"]),
    ]
    for node in front:
        node.name = f"{SCOPE}/{node.op_type}"
    set_nodes(graph, [*front, *graph.node])
    return result
