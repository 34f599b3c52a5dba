"""A float16 tower under a float32 head, for tests of the engines: the smallest such conversion."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from numclip_runtime.metadata import INPUT_NAME


def half_tower(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose nodes before the adapter's first layer compute in float16."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    down = next(i for i, node in enumerate(graph.node) if "down.weight" in node.input)
    tower, boundary = list(graph.node[:down]), graph.node[down].input[0]
    names = {name for node in tower for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in names and tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            assert not any(tensor.name in node.input for node in graph.node[down:])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in tower:
        node.input[:] = ["half_images" if name == INPUT_NAME else name for name in node.input]
        node.output[:] = ["half_features" if name == boundary else name for name in node.output]
    casts = [
        helper.make_node("Cast", [INPUT_NAME], ["half_images"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half_features"], [boundary], to=TensorProto.FLOAT),
    ]
    nodes = [casts[0], *tower, casts[1], *graph.node[down:]]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(half, full_check=True)
    return half
