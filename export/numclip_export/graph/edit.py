"""Edit an ONNX graph: copies, nodes, constants, and the readers of a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[np.float32]


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that can be changed."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace all nodes of a graph."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy whose outputs are these tensors, whatever their types."""
    result = copy_of(model)
    del result.graph.output[:]
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return result


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


class Constants:
    """The constant tensors of a graph, by name; a replacement gets a name of its own.

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
            KeyError: if the graph has no such constant.
        """
        return np.array(numpy_helper.to_array(self._tensors[name]))

    def put(self, name: str, numbers: npt.NDArray[np.generic]) -> str:
        """Add a constant and return its name, made unique."""
        unique, count = name, 1
        while unique in self._tensors:
            unique, count = f"{name}_{count}", count + 1
        tensor = numpy_helper.from_array(np.require(numbers, requirements="C"), unique)
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
