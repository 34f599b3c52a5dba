"""The INT8 forms of a small vision transformer, with and without outlier channels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from numclip.model.numclip import ModelConfig, NumClip
from numclip_export.fold import FoldedModel
from numclip_export.graph.edit import Constants
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.int8.calibration import cached_ranges, content_key, layer_ranges
from numclip_export.int8.layers import Linear, linear_layers
from numclip_export.int8.quantize import dynamic_int8, scales_of, static_int8
from numclip_export.int8.smooth import balance, smooth_layer_norms
from numclip_export.precision.fp16 import fp16_from_fp32
from tests.numclip.tiny import TASK, TEXT

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 3}
FEATURES = "features"
FACTOR = 30  # of the outlier channels, as measured in trained towers


def model_with_outliers(factor: float) -> NumClip:
    """Scale some LayerNorm channels and undo it in the next weight: the function stays."""
    torch.manual_seed(0)
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    model = NumClip(ModelConfig(config), TASK).eval()
    blocks: Any = model.image_encoder.get_submodule("transformer.resblocks")
    with torch.no_grad():
        for block in blocks:
            for norm, weight in (
                (block.ln_1, block.attn.in_proj_weight),
                (block.ln_2, block.mlp.c_fc.weight),
            ):
                norm.weight.add_(0.2 * torch.randn_like(norm.weight))  # so that no two are equal
                chosen = torch.randperm(len(norm.weight))[:4]
                norm.weight[chosen] *= factor
                norm.bias[chosen] *= factor
                weight[:, chosen] /= factor
    return model


@dataclass(frozen=True)
class Graph:
    model: onnx.ModelProto
    layers: list[Linear]
    images: np.ndarray[Any, Any]


def graph_of(factor: float) -> Graph:
    model = onnx_from_folded(FoldedModel(model_with_outliers(factor)), 32)
    features = next(n.output[0] for n in model.graph.node if "image_encoder.proj" in n.input)
    shape: list[str | int | None] = ["batch", 32]
    model.graph.output.append(onnx.helper.make_tensor_value_info(features, 1, shape))
    rename(model, features, FEATURES)
    for index, node in enumerate(model.graph.node):
        node.name = f"{index}/{node.op_type}"
    before = set(names_before(model))
    layers = [la for la in linear_layers(model, before.__contains__) if la.op == "MatMul"]
    images = np.random.default_rng(1).standard_normal((24, 3, 32, 32)).astype(np.float32)
    return Graph(model, layers, images)


def rename(model: onnx.ModelProto, before: str, after: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == before:
                    names[index] = after
    for value in model.graph.output:
        if value.name == before:
            value.name = after


def names_before(model: onnx.ModelProto) -> list[str]:
    """Return the nodes up to the features."""
    names = [node.name for node in model.graph.node]
    (last,) = [n.name for n in model.graph.node if FEATURES in n.output]
    return names[: names.index(last) + 1]


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


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


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


def parts(graph: Graph) -> tuple[onnx.ModelProto, list[Linear], np.ndarray[Any, Any]]:
    return graph.model, graph.layers, graph.images


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
        quantised = static_int8(model, layers, layer_ranges(model, layers, graph.images))
    expected = run(graph.model, graph.images)
    assert likeness(run(quantised, graph.images), expected) > 0.995
    assert quantised.ByteSize() < 0.55 * graph.model.ByteSize()  # a tiny tower: much is not linear


@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_outliers_break_int8_that_is_not_smoothed(outliers: Graph, form: str) -> None:
    ranges = layer_ranges(*parts(outliers))
    quantised = (
        dynamic_int8(copy_of(outliers.model), outliers.layers)
        if form == "dynamic"
        else static_int8(copy_of(outliers.model), outliers.layers, ranges)
    )
    assert likeness(run(quantised, outliers.images), run(outliers.model, outliers.images)) < 0.99


def test_dynamic_form_multiplies_integers(graph: Graph) -> None:
    kinds = Counter(n.op_type for n in dynamic_int8(copy_of(graph.model), graph.layers).graph.node)
    assert kinds["MatMulInteger"] == len(graph.layers)


def test_static_form_is_what_tensorrt_asks_for(graph: Graph) -> None:
    """Symmetric int8 on both sides, a scale per output channel, no Q or DQ elsewhere."""
    ranges = layer_ranges(*parts(graph))
    model = static_int8(copy_of(graph.model), graph.layers, ranges)
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
    half = fp16_from_fp32(static_int8(model, layers, ranges), set())
    constants = Constants(half)
    for node in half.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = constants.get(node.input[1])
            assert scale.dtype == np.float16
            assert (scale > 0).all()


def test_balance_is_smoothquants() -> None:
    got = balance(np.array([4.0, 100.0, 0.0], np.float32), np.array([1.0, 0.25, 2.0], np.float32))
    np.testing.assert_allclose(got, [2, 20, 1])  # sqrt(4 / 1), sqrt(100 / 0.25), a dead channel


def test_ranges_are_those_of_the_batchwise_run(graph: Graph) -> None:
    """11 images: a short last batch counts, too."""
    layer = graph.layers[0]
    got = layer_ranges(graph.model, [layer], graph.images[:11])[layer.activation]
    session_model = copy_of(graph.model)
    session_model.graph.output.append(onnx.ValueInfoProto(name=layer.activation))
    session = ort.InferenceSession(
        session_model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (whole,) = session.run([layer.activation], {"images": graph.images[:11]})
    np.testing.assert_allclose(got, np.abs(whole).max((0, 1)), rtol=1e-5)


def test_cache_serves_the_same_content_only(graph: Graph, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.json"
    ranges, cached = cached_ranges(*parts(graph), cache)
    assert not cached
    again, cached = cached_ranges(*parts(graph), cache)
    assert cached
    assert all((again[name] == ranges[name]).all() for name in ranges)

    other, cached = cached_ranges(graph.model, graph.layers, 2 * graph.images, cache)
    assert not cached
    assert any((other[name] != ranges[name]).any() for name in ranges)


def test_cache_that_cannot_be_read_is_made_anew(graph: Graph, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.json"
    cache.write_text("{")
    _, cached = cached_ranges(*parts(graph), cache)
    assert not cached
    assert cached_ranges(*parts(graph), cache)[1]


def test_key_depends_on_weights_but_not_on_metadata(graph: Graph) -> None:
    key, model = content_key(*parts(graph)), copy_of(graph.model)
    onnx.helper.set_model_props(model, {"numclip": "{}"})
    assert content_key(model, graph.layers, graph.images) == key
    constants = Constants(model)
    weight = graph.layers[0].weight
    replaced = constants.put(weight, constants.get(weight) * 2)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == weight:
                node.input[index] = replaced
    assert content_key(model, graph.layers, graph.images) != key
