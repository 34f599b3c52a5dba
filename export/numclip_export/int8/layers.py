"""The linear layers of an ONNX graph: what INT8 quantises, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[np.float32]


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
        chosen: Tells from a node's name whether it may be quantised.
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


class Constants:
    """The constant tensors of a graph, by name; what is replaced gets a name of its own.

    The exporter merges equal constants, so one initializer may serve several nodes: a changed
    value must never be written in place.

    Args:
        model: Graph, changed by `put` and `drop_unused`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> Array:
        """Return a copy of a constant's numbers.

        Raises:
            KeyError: if there is no such constant.
        """
        return np.array(numpy_helper.to_array(self._tensors[name]))

    def put(self, name: str, numbers: npt.NDArray[np.generic]) -> str:
        """Add a constant and return its name, made unique."""
        unique, count = name, 1
        while unique in self._tensors:
            unique, count = f"{name}_{count}", count + 1
        tensor = numpy_helper.from_array(np.ascontiguousarray(numbers), unique)
        self._graph.initializer.append(tensor)
        self._tensors[unique] = self._graph.initializer[-1]
        return unique

    def drop_unused(self) -> None:
        """Remove the constants that no node reads any more."""
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        self._tensors = {tensor.name: tensor for tensor in self._graph.initializer}


def readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def through_slices(
    tensor: str, read_by: dict[str, list[onnx.NodeProto]]
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that read a tensor, directly or some of its rows."""
    for node in read_by.get(tensor, []):
        if node.op_type == "Slice":
            yield from through_slices(node.output[0], read_by)
        else:
            yield node


def replace_input(nodes: Iterable[onnx.NodeProto], before: str, after: str) -> None:
    """Make nodes read another tensor."""
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == before:
                node.input[index] = after
