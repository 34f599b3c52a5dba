"""Inputs, outputs and operators of an ONNX file, read without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from numclip_runtime import ModelError
from numclip_runtime.model_files.onnx_file import (
    GRAPH,
    LENGTH,
    NODE,
    OP_TYPE,
    VARINT,
    Field,
    fields,
    varint,
)
from numclip_runtime.model_files.open_model import Buffer, OpenModel

# Field numbers of ONNX
GRAPH_INPUT, GRAPH_OUTPUT = 11, 12  # of GraphProto
VALUE_NAME, VALUE_TYPE = 1, 2  # of ValueInfoProto
TENSOR_TYPE = 1  # of TypeProto
ELEM_TYPE, SHAPE = 1, 2  # of TypeProto.Tensor
DIM = 1  # of TensorShapeProto
DIM_VALUE = 1  # of TensorShapeProto.Dimension
ELEM_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}

Shape = tuple["int | None", ...]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    kind: str  # "float32"
    shape: Shape  # with the batch; None: any size


@dataclass(frozen=True)
class Signature:
    """What goes into a graph, what comes out, and its operators."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    operators: frozenset[str] = frozenset()


def read_signature(model: OpenModel) -> Signature:
    """Read the signature of an ONNX file.

    Raises:
        ModelError: if it is not an ONNX file, or a damaged one.
    """
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    operators = set()
    data = model.content
    try:
        for graph in _inside(data, Field(0, LENGTH, 0, 0, model.size), GRAPH):
            for field in fields(data, graph.start, graph.end):
                if field.number == NODE:
                    for name in _inside(data, field, OP_TYPE):
                        operators.add(data[name.start : name.end].decode())
                elif field.number in (GRAPH_INPUT, GRAPH_OUTPUT):
                    name_, spec = _tensor(data, field)
                    (inputs if field.number == GRAPH_INPUT else outputs)[name_] = spec
    except ValueError as error:
        raise ModelError(f"{model.path}: not an ONNX model, or a damaged one ({error}).") from None
    return Signature(inputs, outputs, frozenset(operators))


def _inside(data: Buffer, outer: Field, number: int) -> Iterator[Field]:
    """Yield the texts and messages of one number inside a message."""
    for field in fields(data, outer.start, outer.end):
        if field.number == number and field.kind == LENGTH:
            yield field


def _tensor(data: Buffer, info: Field) -> tuple[str, TensorSpec]:
    name, kind, shape = "", "no tensor", list[int | None]()
    for field in _inside(data, info, VALUE_NAME):
        name = data[field.start : field.end].decode()
    for outer in _inside(data, info, VALUE_TYPE):
        for tensor in _inside(data, outer, TENSOR_TYPE):
            for field in fields(data, tensor.start, tensor.end):
                if field.number == ELEM_TYPE and field.kind == VARINT:
                    code, _ = varint(data, field.start, field.end)
                    kind = ELEM_TYPES.get(code, f"type {code}")
                elif field.number == SHAPE and field.kind == LENGTH:
                    shape = [_size(data, dim) for dim in _inside(data, field, DIM)]
    return name, TensorSpec(kind, tuple(shape))


def _size(data: Buffer, dim: Field) -> int | None:
    for field in fields(data, dim.start, dim.end):
        if field.number == DIM_VALUE and field.kind == VARINT:
            return varint(data, field.start, field.end)[0]
    return None
