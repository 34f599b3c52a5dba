"""float16 graphs on the CPU: the twin feels float16 as numpy does; the file itself does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from numclip_export.graph.run import cpu_session
from numclip_export.precision import fp16_emulation as rounding
from numclip_export.precision.fp16_emulation import require_rounding, rounded_twin
from numclip_runtime import UsageError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 8)).astype(np.float32)
WEIGHT = RNG.normal(size=(8, 8)).astype(np.float16)
BIG, SMALL, OFFSET = (np.float16(number) for number in (1024, 1 / 1024, 1000))


def model(*steps: tuple[str, Array]) -> onnx.ModelProto:
    """Chain binary operators in float16 between a float32 input and a float32 output."""
    nodes = [helper.make_node("Cast", ["x"], ["t0"], to=TensorProto.FLOAT16)]
    weights = []
    for i, (operator, constant) in enumerate(steps):
        weights.append(numpy_helper.from_array(np.asarray(constant, np.float16), f"c{i}"))
        nodes.append(helper.make_node(operator, [f"t{i}", f"c{i}"], [f"t{i + 1}"]))
    nodes.append(helper.make_node("Cast", [f"t{len(steps)}"], ["y"], to=TensorProto.FLOAT))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 8]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def product(left: Array, right: Array) -> Array:
    """Multiply matrices as tensor cores do: sums in float32, the result in float16."""
    return (left.astype(np.float32) @ right.astype(np.float32)).astype(np.float16)


HALF = X.astype(np.float16)
with np.errstate(over="ignore"):
    CASES = {
        "overflow": (
            model(("Mul", BIG), ("Mul", BIG), ("Mul", SMALL), ("Mul", SMALL)),
            HALF * BIG * BIG * SMALL * SMALL,
        ),
        "rounding": (model(("Add", OFFSET), ("Sub", OFFSET)), (HALF + OFFSET) - OFFSET),
        "input": (model(), HALF),
        "products": (
            model(("MatMul", WEIGHT), ("MatMul", WEIGHT)),
            product(product(HALF, WEIGHT), WEIGHT),
        ),
    }


@pytest.mark.parametrize("name", list(CASES))
def test_twin_equals_numpy_float16(name: str) -> None:
    graph, expected = CASES[name]
    (got,) = cpu_session(rounded_twin(graph)).run(None, {"x": X})
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    if name == "overflow":
        assert np.isinf(got).any()
    else:
        assert np.abs(got - X @ np.eye(8)).max() > 1e-4  # rounding is felt


def test_plain_session_hides_an_overflow() -> None:
    """If this fails, onnxruntime has become honest, and the twin is no longer needed."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = CASES["overflow"][0].SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": X})
    assert np.isfinite(got).all()


def test_require_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    require_rounding()
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    monkeypatch.setattr(rounding, "rounded", lambda name, result: identity)
    with pytest.raises(UsageError, match="does not round to float16, so it cannot verify"):
        require_rounding()
