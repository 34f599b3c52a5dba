"""The operators of numclip's ONNX files, and the check of a graph before any library gets it.

A model is data as long as its graph only computes. Loops may never end, functions and custom
domains may be anything, and external data make onnxruntime open other files: numclip-export writes
none of them, so they are refused. onnxruntime computes nodes without variable inputs when it opens
a file; those may not enlarge anything here, so opening a file of N bytes takes some N bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from numclip_runtime.errors import ModelError
from numclip_runtime.model_files.onnx_file import (
    EXPORT_AGAIN,
    EXTERNAL_DATA,
    GRAPH,
    INITIALIZER,
    LENGTH,
    NODE,
    NODE_INPUT,
    OP_TYPE,
    VARINT,
    Field,
    fields,
    varint,
)
from numclip_runtime.model_files.open_model import Buffer, OpenModel

# What torch's exporter and this package's own steps write for towers of open_clip and timm; a test
# exports them and compares. Each computes tensors from tensors and has no subgraph.
STANDARD = frozenset(
    b"""
    Abs Add And ArgMax Attention AveragePool BatchNormalization Cast Ceil Clip Concat Conv
    ConvInteger Cos DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
    Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul
    MatMulInteger Max MaxPool Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize
    RMSNormalization RotaryEmbedding Round ScatterND Selu Shape Sigmoid Sign
    SimplifiedLayerNormalization
    Sin Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh Tile Transpose
    Unsqueeze Where
    """.split()
)
# What onnxruntime's optimiser writes into INT8 files for a CPU
MICROSOFT = frozenset(
    b"""
    Attention BiasGelu BiasSoftmax DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul
    Gelu MatMulIntegerToFloat MultiHeadAttention QuickGelu SkipLayerNormalization
    """.split()
)
DOMAINS = {b"": STANDARD, b"ai.onnx": STANDARD, b"com.microsoft": MICROSOFT}
# The operators whose results, each of them, have at most as many numbers as their inputs together
NEVER_LARGER = frozenset(
    b"""
    Abs Cast Ceil Clip Concat Cos DequantizeLinear Erf Exp Flatten Floor Identity LayerNormalization
    Log Neg Not QuantizeLinear Reciprocal Relu Reshape Round Sigmoid Sign Sin Slice Split Sqrt
    Squeeze Tanh Transpose Unsqueeze
    """.split()
)

MOST_NODE_BYTES = 4 << 20  # of all nodes; a ViT-L/14 has 0.3 MB
# Field numbers of ONNX that are read here alone
FUNCTIONS, TRAINING = 25, 20  # of ModelProto
SPARSE_INITIALIZER = 15  # of GraphProto
NODE_OUTPUT, ATTRIBUTE, DOMAIN = 2, 5, 7  # of NodeProto
TENSOR, SUBGRAPH, SUBGRAPHS = 5, 6, 11  # of AttributeProto
DIMS, DATA_TYPE, TEXTS, TENSOR_NAME, LOCATION = 1, 2, 6, 8, 14  # of TensorProto
# The field numbers that numclip's files have
OF_MODEL = frozenset((1, 2, 3, 4, 5, 6, GRAPH, 8, 14))
OF_GRAPH = frozenset((NODE, 2, INITIALIZER, 10, 11, 12, 13, 14, 16))
OF_ATTRIBUTE = frozenset((1, 2, 3, 4, TENSOR, 7, 8, 9, 13, 20))
OF_TENSOR = frozenset((DIMS, DATA_TYPE, 4, 5, 7, TENSOR_NAME, 9, 10, 11, 12, 16))
STRING_TYPE = 8  # of TensorProto.DataType


class _Node(NamedTuple):
    operator: bytes
    inputs: list[bytes]
    outputs: list[bytes]


class RefusedGraphError(ValueError):
    """The graph holds something that numclip never writes; the message completes "it ..."."""


def check_graph(model: OpenModel) -> None:
    """Refuse an ONNX file that holds what numclip-export never writes.

    Raises:
        ModelError: naming it, and the way out.
    """
    try:
        _check_model(model.content, model.size)
    except RefusedGraphError as error:
        raise ModelError(
            f"{model.path}: {error}, which numclip-export never writes; {EXPORT_AGAIN}."
        ) from None
    except ValueError as error:
        raise ModelError(f"{model.path}: not an ONNX model, or a damaged one ({error}).") from None


def _check_model(data: Buffer, size: int) -> None:
    for field in fields(data, 0, size):
        if field.number == FUNCTIONS:
            raise RefusedGraphError("holds functions of its own")
        if field.number not in OF_MODEL:
            raise RefusedGraphError(f"holds a field of number {field.number}")
        if field.number == GRAPH and field.kind == LENGTH:
            _check_graph(data, field)


def _check_graph(data: Buffer, graph: Field) -> None:
    nodes: list[_Node] = []
    constants: list[bytes] = []
    left = MOST_NODE_BYTES
    for field in fields(data, graph.start, graph.end):
        if field.number not in OF_GRAPH:
            sparse = field.number == SPARSE_INITIALIZER
            what = "sparse weights" if sparse else f"a field of number {field.number} in its graph"
            raise RefusedGraphError(f"holds {what}")
        if field.kind != LENGTH:
            continue
        if field.number == NODE:
            left -= field.end - field.start
            if left < 0:
                raise RefusedGraphError(f"has nodes of more than {MOST_NODE_BYTES:,} bytes")
            nodes.append(_checked_node(data[field.start : field.end]))
        elif field.number == INITIALIZER:
            constants.append(_checked_tensor(data, field.start, field.end))
    for node in _computed_on_opening(nodes, constants):
        if node.operator not in NEVER_LARGER:
            raise RefusedGraphError(
                f"computes the operator {node.operator.decode()} from constants alone"
            )


def _checked_node(node: bytes) -> _Node:
    inputs, outputs, operator, domain = [], [], b"", b""
    for field in fields(node, 0, len(node)):
        if field.kind != LENGTH:
            continue
        content = node[field.start : field.end]
        if field.number == NODE_INPUT:
            inputs.append(content)
        elif field.number == NODE_OUTPUT:
            outputs.append(content)
        elif field.number == OP_TYPE:
            operator = content
        elif field.number == DOMAIN:
            domain = content
        elif field.number == ATTRIBUTE:
            _check_attribute(content, operator)
    if operator not in DOMAINS.get(domain, ()):
        name = b".".join((domain, operator) if domain else (operator,))
        raise RefusedGraphError(f"holds the operator {_readable(name)}")
    return _Node(operator, inputs, outputs)


def _check_attribute(attribute: bytes, operator: bytes) -> None:
    for field in fields(attribute, 0, len(attribute)):
        if field.number in (SUBGRAPH, SUBGRAPHS):
            raise RefusedGraphError(f"holds the operator {_readable(operator)} with a subgraph")
        if field.number not in OF_ATTRIBUTE:
            raise RefusedGraphError(f"holds an attribute with a field of number {field.number}")
        if field.number == TENSOR and field.kind == LENGTH:
            _checked_tensor(attribute, field.start, field.end)


def _checked_tensor(data: Buffer, start: int, end: int) -> bytes:
    """Check a tensor, and return its name."""
    name, count = b"", 1
    for field in fields(data, start, end):
        number = field.number
        if number == EXTERNAL_DATA or (number == LOCATION and data[field.start] != 0):
            raise RefusedGraphError("refers to weights in other files (external data)")
        if number == TENSOR_NAME and field.kind == LENGTH:
            name = data[field.start : field.end]
        elif number == DIMS:
            for size in _numbers(data, field):
                count *= size
                if count > 8 * (end - start):  # INT4, the smallest type: two numbers in a byte
                    raise RefusedGraphError(
                        f"states more numbers for a tensor than its {end - start:,} bytes can hold"
                    )
        elif number == TEXTS or (number == DATA_TYPE and data[field.start] == STRING_TYPE):
            raise RefusedGraphError("holds texts as tensors")
        elif number not in OF_TENSOR and number != LOCATION:
            raise RefusedGraphError(f"holds a tensor with a field of number {number}")
    return name


def _numbers(data: Buffer, field: Field) -> Iterator[int]:
    """Yield the numbers of a repeated field, packed or not."""
    place = field.start
    while place < field.end and field.kind in (VARINT, LENGTH):
        number, place = varint(data, place, field.end)
        yield number


def _computed_on_opening(nodes: list[_Node], constants: list[bytes]) -> Iterator[_Node]:
    """Yield the nodes that depend on constants alone, in any order."""
    readers: dict[bytes, list[int]] = defaultdict(list)
    missing = []
    for number, node in enumerate(nodes):
        variable = [name for name in node.inputs if name]
        missing.append(len(variable))
        for name in variable:
            readers[name].append(number)
    ready = [number for number, count in enumerate(missing) if count == 0]
    known = list(dict.fromkeys(constants))
    seen = set(known)
    while ready or known:
        while known:
            for number in readers.get(known.pop(), ()):
                missing[number] -= 1
                if missing[number] == 0:
                    ready.append(number)
        while ready:
            node = nodes[ready.pop()]
            yield node
            fresh = [name for name in node.outputs if name and name not in seen]
            seen.update(fresh)
            known.extend(fresh)


def _readable(name: bytes) -> str:
    text = name[:60].decode("ascii", "backslashreplace")
    return text if text.isprintable() else repr(text)
