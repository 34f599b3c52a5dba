"""Run a float16 graph on the CPU so that its rounding and overflow are felt.

onnxruntime's CPU provider has few float16 kernels. It puts Casts around the nodes and then removes
each pair of Casts between two of them, with all optimisation off as well (measured, 1.32): a
product that overflows float16 stays finite, 1000 + 0.1 - 1000 stays 0.1. A parity test that runs
the file itself therefore proves nothing. Casts that the *graph* holds are kept, so the test runs a
float32 twin of the graph in which every tensor that is float16 is rounded by such a pair: products
and sums inside an operator are float32 (as on a GPU's tensor cores), every tensor between
operators is exactly a float16 number, and beyond 65504 it is infinite.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from numclip_export.graph.edit import copy_of, set_nodes, with_outputs
from numclip_export.graph.run import cpu_session, run_batches
from numclip_export.graph.types import features_name, tensor_types
from numclip_export.precision.fp16 import MOVERS
from numclip_runtime import UsageError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import FloatArray, InputArray


def rounded_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph with the results that a GPU has for the float16 tensors of `model`.

    Tensors and nodes keep their names; the tensors hold the same numbers, as float32.
    """
    types = tensor_types(model)
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    twin = copy_of(model)
    graph = twin.graph
    for tensor in graph.initializer:
        if tensor.name in half:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.FLOAT
        if node.op_type in MOVERS:  # they move rounded numbers
            continue
        for i, name in enumerate(node.output):
            if name in half:
                node.output[i] = f"{name}_unrounded"
                nodes += rounded(node.output[i], name)
    del graph.value_info[:]
    set_nodes(graph, nodes)
    return twin


def rounded(name: str, result: str, kind: int = TensorProto.FLOAT16) -> list[onnx.NodeProto]:
    """Return the nodes that give a float32 tensor rounded to a type, as float32."""
    make = onnx.helper.make_node
    return [
        make("Cast", [name], [f"{result}_rounded"], f"{result}/round", to=kind),
        make("Cast", [f"{result}_rounded"], [result], f"{result}/widen", to=TensorProto.FLOAT),
    ]


class GraphRun:
    """A graph whose float16 tensors are rounded for real; call it as `parity.Run`.

    Args:
        model: With float32 or float16 tensors or both; named nodes.
        features: Tensor that leaves the image encoder; None finds it by the nodes' names.
    """

    def __init__(self, model: onnx.ModelProto, features: str | None = None) -> None:
        self._features = features or features_name(model)
        names = [VALUES_NAME, BIN_PROBS_NAME, self._features]
        self._session = cpu_session(with_outputs(rounded_twin(model), names))

    def __call__(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Return values (B,) and bin_probs (B, K) for B images in the form of the graph's input."""
        values, bin_probs = self._session.run([VALUES_NAME, BIN_PROBS_NAME], {INPUT_NAME: images})
        return values, bin_probs

    def features(self, images: InputArray) -> FloatArray:
        """Return the image features (N, D) of any number of images."""
        parts = run_batches(self._session, [self._features], images)
        return np.concatenate([features for (features,) in parts])


def require_rounding() -> None:
    """Check that the installed onnxruntime keeps the twin's Casts.

    Raises:
        UsageError: if it does not (before 1.17), so that it could not see an overflow.
    """
    import onnxruntime as ort

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        rounded("x", "y"),
        "rounding",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    session = cpu_session(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        )
    )
    (got,) = session.run(None, {"x": np.array([1e5, 1000.1], np.float32)})
    if not np.array_equal(got, np.array([np.inf, 1000.0], np.float32)):
        raise UsageError(
            f"onnxruntime {ort.__version__} does not round to float16, so it cannot verify a "
            "float16 model; install onnxruntime 1.20 or newer, or pass --no-verify."
        )
