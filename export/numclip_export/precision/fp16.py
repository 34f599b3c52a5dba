"""From a float32 graph to a float16 graph: precision lives in the graph, as types.

TensorRT 11 follows the graph's types only (`STRONGLY_TYPED`, which 10.3 has as well), and
onnxruntime always did. onnxruntime ships a converter (`transformers.float16`), which is not used:
it clamps weights beyond the float16 range without a word, rounds constants that a float32 and a
float16 node share, and casts between every two float32 nodes to float16 and back, the graph's
outputs too: a year such as 1937.4 becomes 1937. Of the 57 Casts it gave a small ViT with a float32
head, 35 were such pairs; two are needed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from numclip_export.graph.edit import copy_of, set_nodes
from numclip_export.graph.names import in_image_encoder, module_of, new_name
from numclip_export.graph.types import FLOATS, tensor_types

FP16_MAX = float(np.finfo(np.float16).max)  # 65504
# These operators only move numbers, so they keep their input's precision: no rounding, no Cast
# between two float32 nodes that a Reshape separates.
MOVERS = frozenset(
    ("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split")
) | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
# Inputs that ONNX requires as float32 whatever the type of the others, by operator.
ALWAYS_FP32 = {"Resize": (1, 2)}


def head_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the nodes after the image encoder, which stay float32 in every precision.

    exp(logit_scale) is about 100 and multiplies all rounding before it: in float16 the
    head alone moved values by 0.3 label units. It costs under 0.1 % of the network's operations.
    """
    return {node.name for node in model.graph.node if not in_image_encoder(node.name)}


def nodes_beyond_fp16(model: onnx.ModelProto) -> set[str]:
    """Return the nodes of a float32 graph with a constant that float16 cannot hold."""
    beyond = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and not np.isfinite(_to_fp16(numpy_helper.to_array(tensor))).all()
    }
    return {node.name for node in model.graph.node if beyond.intersection(node.input)}


def _to_fp16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(np.float16)


def fp16_from_fp32(model: onnx.ModelProto, keep_fp32: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a float32 graph that computes in float16, but for the nodes named.

    Inputs and outputs of the graph stay float32. A tensor has the precision of the node that makes
    it, and is cast once, where a node of the other precision reads it. Nodes that would need a
    constant beyond the float16 range stay float32 unasked: clamping would change the model.

    Args:
        model: Graph with unique node names (`name_nodes`) and no subgraphs; left as it is.
        keep_fp32: Names of nodes to run in float32, with their constants exact.
    """
    result = copy_of(model)
    graph = result.graph
    lift_constants(graph)
    types = tensor_types(result)
    _Converter(graph, types, set(keep_fp32) | nodes_beyond_fp16(result)).convert()
    del graph.value_info[:]  # float32 types, now wrong
    tensor_types(result)  # raises if a Cast is missing
    return result


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, so that constants have one form."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    for node in constants:
        (attribute,) = node.attribute
        value = onnx.helper.get_attribute_value(attribute)
        array = (
            numpy_helper.to_array(value)
            if isinstance(value, TensorProto)
            else np.array(value, np.float32 if "float" in attribute.name else np.int64)
        )
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)


class _Converter:
    """One pass over the nodes in graph order; each is given its inputs in its own precision."""

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int], keep: set[str]) -> None:
        self.graph = graph
        self.types = types  # tensor -> type in the float32 graph
        self.keep = keep
        self.constants = {t.name: t for t in graph.initializer if self._is_float(t.name)}
        self.precision: dict[str, int] = {  # float tensor -> its type in the new graph
            value.name: TensorProto.FLOAT for value in graph.input if self._is_float(value.name)
        }
        self.maker = {name: node.name for node in graph.node for name in node.output}
        self.readable: dict[tuple[str, int], str] = {}  # (tensor, type) -> its other name
        self.names = {node.name for node in graph.node}
        self.nodes: list[onnx.NodeProto] = []
        self.used: dict[str, onnx.TensorProto] = {}  # the new graph's float constants

    def convert(self) -> None:
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            target = self._target(node)
            for i, name in enumerate(node.input):
                if self._is_float(name) and node.op_type != "Shape":
                    fixed = i in ALWAYS_FP32.get(node.op_type, ())
                    node.input[i] = self._read(name, TensorProto.FLOAT if fixed else target)
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if self._is_float(name):
                    self.precision[name] = target
                    if name in outputs and target == TensorProto.FLOAT16:
                        node.output[i] = f"{name}_fp16"
                        self._cast(node.output[i], name, TensorProto.FLOAT)
                        self.readable[name, TensorProto.FLOAT16] = node.output[i]
                        self.precision[name] = TensorProto.FLOAT
        others = [t for t in self.graph.initializer if t.name not in self.constants]
        others += self.used.values()
        del self.graph.initializer[:]
        self.graph.initializer.extend(others)
        set_nodes(self.graph, self.nodes)

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def _target(self, node: onnx.NodeProto) -> int:
        """Return the type in which a node computes."""
        read = [name for name in node.input if self._is_float(name)]
        if node.name in self.keep or not read:  # nothing to read in float16, such as Cast of int
            return TensorProto.FLOAT
        if node.op_type in MOVERS:
            kinds = {self.precision[name] for name in read if name not in self.constants}
            if TensorProto.FLOAT in kinds:
                return TensorProto.FLOAT
        return TensorProto.FLOAT16

    def _read(self, name: str, target: int) -> str:
        """Return the name under which a float tensor can be read as the target type."""
        if name in self.constants:
            return self._constant(name, target)
        if self.precision[name] == target:
            return name
        if (name, target) not in self.readable:
            self.readable[name, target] = f"{name}_{FLOATS[target]}"
            self._cast(name, self.readable[name, target], target)
        return self.readable[name, target]

    def _cast(self, name: str, result: str, target: int) -> None:
        """Add a Cast that belongs to the module which made the tensor."""
        maker = self.maker.get(name.removesuffix("_fp16"), self.maker.get(name))
        label = new_name(module_of(maker) if maker else name, "Cast", self.names)
        self.nodes.append(onnx.helper.make_node("Cast", [name], [result], name=label, to=target))

    def _constant(self, name: str, target: int) -> str:
        if target == TensorProto.FLOAT:
            self.used[name] = self.constants[name]
            return name
        rounded = f"{name}_fp16"
        if rounded not in self.used:
            array = numpy_helper.to_array(self.constants[name])
            self.used[rounded] = numpy_helper.from_array(_to_fp16(array), rounded)
        return rounded
