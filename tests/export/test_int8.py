"""The INT8 forms of a small vision transformer, with and without outlier channels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from numclip_export.graph.edit import Constants, copy_of
from numclip_export.int8.calibration import layer_ranges
from numclip_export.int8.layers import Linear, linear_layers
from numclip_export.int8.quantize import dynamic_int8, scales_of, static_int8, symmetric_grids
from numclip_export.int8.smooth import balance, smooth_layer_norms
from numclip_export.precision.fp16 import fp16_from_fp32
from tests.export.outliers import FACTOR, FEATURES, Graph, graph_of, parts


@pytest.fixture(scope="module", params=[1, FACTOR], ids=["even", "outliers"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return graph_of(request.param)


@pytest.fixture(scope="module")
def outliers() -> Graph:
    return graph_of(FACTOR)


def run(model: onnx.ModelProto, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the features of each image, run alone."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [session.run([FEATURES], {"images": image[None]})[0] for image in images]
    return np.concatenate(rows)


def likeness(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the lowest mean-centred cosine."""
    a, b = got - expected.mean(0), expected - expected.mean(0)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_linear_layers_are_the_products_with_constants(graph: Graph) -> None:
    """Per block: in_proj, out_proj and two of the MLP (the last has its query apart); and proj."""
    assert len(graph.layers) == 3 * 4 + 1 + 1
    products = [node for node in graph.model.graph.node if node.op_type == "MatMul"]
    attention = [n for n in products if n.name not in {la.node for la in graph.layers}]
    assert len(attention) >= 2 * 3  # q k and p v stay
    constants = Constants(graph.model)
    assert all(constants.get(la.weight).ndim == 2 for la in graph.layers)


def test_smoothing_changes_the_balance_and_nothing_else(outliers: Graph) -> None:
    model, ranges = copy_of(outliers.model), layer_ranges(*parts(outliers))
    done = smooth_layer_norms(model, outliers.layers, ranges)
    # of ln_1 and ln_2 of each block, and the row of the last one's queries; not of ln_pre, which
    # the residual reads
    assert len(done) == 2 * 3 + 1
    expected = run(outliers.model, outliers.images)
    np.testing.assert_allclose(run(model, outliers.images), expected, atol=2e-4, rtol=1e-4)

    smoothed = layer_ranges(model, relisted(model, outliers.layers), outliers.images)
    first = outliers.layers[0].activation
    assert unevenness(ranges[first]) > 10
    assert unevenness(smoothed[first]) < unevenness(ranges[first]) / 3
    for name, scale in done.items():
        np.testing.assert_allclose(smoothed[name], ranges[name] / scale, rtol=1e-3)
    assert len(model.graph.initializer) == len(used_constants(model))


def relisted(model: onnx.ModelProto, layers: list[Linear]) -> list[Linear]:
    """Return the same layers with the names of their new weights."""
    return linear_layers(model, {layer.node for layer in layers}.__contains__)


def unevenness(ranges: np.ndarray[Any, Any]) -> float:
    return float(ranges.max() / np.median(ranges))


def used_constants(model: onnx.ModelProto) -> set[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return constants & {name for node in model.graph.node for name in node.input}


def test_a_shared_constant_is_not_changed_for_others(outliers: Graph) -> None:
    """The exporter merges equal constants: scaling one reader's copy must leave the other's."""
    model = copy_of(outliers.model)
    norms = [n for n in model.graph.node if n.op_type == "LayerNormalization"]
    shared = norms[1].input[2]
    assert sum(shared in node.input for node in model.graph.node) > 1
    before = Constants(model).get(shared)
    smooth_layer_norms(model, outliers.layers, layer_ranges(*parts(outliers)))
    assert shared in Constants(model)
    assert (Constants(model).get(shared) == before).all()


@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_int8_keeps_the_features(graph: Graph, form: str) -> None:
    ranges = layer_ranges(*parts(graph))
    model = copy_of(graph.model)
    smooth_layer_norms(model, graph.layers, ranges)
    layers = relisted(model, graph.layers)
    if form == "dynamic":
        quantised = dynamic_int8(model, layers)
    else:
        quantised = static_int8(
            model, layers, symmetric_grids(layer_ranges(model, layers, graph.images))
        )
    expected = run(graph.model, graph.images)
    assert likeness(run(quantised, graph.images), expected) > 0.995
    assert quantised.ByteSize() < 0.55 * graph.model.ByteSize()  # a tiny tower: much is not linear


@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_outliers_break_int8_that_is_not_smoothed(outliers: Graph, form: str) -> None:
    ranges = layer_ranges(*parts(outliers))
    quantised = (
        dynamic_int8(copy_of(outliers.model), outliers.layers)
        if form == "dynamic"
        else static_int8(copy_of(outliers.model), outliers.layers, symmetric_grids(ranges))
    )
    assert likeness(run(quantised, outliers.images), run(outliers.model, outliers.images)) < 0.99


def test_dynamic_form_multiplies_integers(graph: Graph) -> None:
    kinds = Counter(n.op_type for n in dynamic_int8(copy_of(graph.model), graph.layers).graph.node)
    assert kinds["MatMulInteger"] == len(graph.layers)


def test_static_form_is_what_tensorrt_asks_for(graph: Graph) -> None:
    """Symmetric int8 on both sides, a scale per output channel, no Q or DQ elsewhere."""
    ranges = layer_ranges(*parts(graph))
    model = static_int8(copy_of(graph.model), graph.layers, symmetric_grids(ranges))
    onnx.checker.check_model(model)
    constants = Constants(model)
    kinds = Counter(node.op_type for node in model.graph.node)
    activations = {layer.activation for layer in graph.layers}
    assert kinds["QuantizeLinear"] == len(activations)
    assert kinds["DequantizeLinear"] == len(activations) + len(graph.layers)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants.get(node.input[2])
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (constants.get(node.input[1]) > 0).all()
    weights = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.attribute]
    assert len(weights) == len(graph.layers)
    for node, layer in zip(weights, graph.layers, strict=True):
        stored, scale = constants.get(node.input[0]), constants.get(node.input[1])
        assert stored.dtype == np.int8
        assert np.abs(stored).max(0).min() >= 126  # every channel uses its whole range
        exact = Constants(graph.model).get(layer.weight)
        np.testing.assert_allclose(stored * scale, exact, atol=float(scale.max()) * 0.57)


def test_scales_are_positive_in_float16() -> None:
    """A dead channel's step must not become 0 when the graph becomes float16."""
    largest = np.array([0, 1e-12, 1e-3, 0.5, 1000, 5e6], np.float32)
    scales = scales_of(largest)
    assert (scales.astype(np.float16) > 0).all()
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
    np.testing.assert_allclose(scales[2:], largest[2:] / 127, rtol=1e-2)


@pytest.mark.parametrize("weight", [0, 1e-9])
def test_dead_channels_have_a_scale_in_float16(outliers: Graph, weight: float) -> None:
    """TensorRT refuses a scale of 0, which a small float32 scale becomes in float16."""
    model, layers = copy_of(outliers.model), outliers.layers[:1]
    constants, (layer,) = Constants(model), layers
    changed = constants.get(layer.weight).copy()
    changed[:, 3] = weight
    for tensor in model.graph.initializer:
        if tensor.name == layer.weight:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, layer.weight))
    ranges = layer_ranges(model, layers, outliers.images)
    half = fp16_from_fp32(static_int8(model, layers, symmetric_grids(ranges)), set())
    constants = Constants(half)
    for node in half.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = constants.get(node.input[1])
            assert scale.dtype == np.float16
            assert (scale > 0).all()


def test_balance_is_smoothquants() -> None:
    got = balance(np.array([4.0, 100.0, 0.0], np.float32), np.array([1.0, 0.25, 2.0], np.float32))
    np.testing.assert_allclose(got, [2, 20, 1])  # sqrt(4 / 1), sqrt(100 / 0.25), a dead channel
