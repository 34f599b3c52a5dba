"""float16 graphs: types, Casts, constants, and that TensorRT reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from numclip_export.graph.run import cpu_session
from numclip_export.graph.types import node_precisions, precision_counts, tensor_types
from numclip_export.precision.fp16 import (
    FP16_MAX,
    MOVERS,
    fp16_from_fp32,
    head_nodes,
    nodes_beyond_fp16,
)
from numclip_export.precision.fp16_emulation import rounded_twin
from tests.export.chain import Chain
from tests.numclip.tiny import images_of

BLOCKS = ("image_encoder.transformer.resblocks.0", "image_encoder.layer2")


def casts(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Cast"]


def everything(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node}


def check(model: onnx.ModelProto) -> None:
    """Check what holds for every float16 graph."""
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    types = tensor_types(model)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    made = {name: node for node in model.graph.node for name in node.output}
    seen = set()
    for cast in casts(model):
        (source,), (result,) = cast.input, cast.output
        assert types[source] != types[result], "a Cast that changes nothing"
        assert source not in made or made[source].op_type != "Cast", "a chain of Casts"
        assert (source, types[result]) not in seen, "two Casts of one tensor"
        seen.add((source, types[result]))
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_encoder_in_fp16_head_in_fp32(chain: Chain) -> None:
    half = fp16_from_fp32(chain.graph, head_nodes(chain.graph))
    check(half)
    assert len(casts(half)) == 2  # images, features
    for name, precision in node_precisions(half).items():
        assert precision == ("fp16" if name.startswith("image_encoder") else "fp32"), name
    before = Counter(node.op_type for node in chain.graph.graph.node)
    assert Counter(node.op_type for node in half.graph.node) == before + Counter(Cast=2)
    types = {t.name: t.data_type for t in half.graph.initializer}
    assert types["down.weight"] == types["regressor.fc.bias"] == TensorProto.FLOAT
    assert types["image_encoder.conv1.weight_fp16"] == TensorProto.FLOAT16
    assert 0.5 < half.ByteSize() / chain.graph.ByteSize() < 0.62


def test_constants_of_kept_nodes_are_exact(chain: Chain) -> None:
    half = fp16_from_fp32(chain.graph, head_nodes(chain.graph))
    constants = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    for tensor in chain.graph.graph.initializer:
        before = numpy_helper.to_array(tensor)
        if tensor.name in constants:
            np.testing.assert_array_equal(constants[tensor.name], before)
        else:
            expected = before.astype(np.float16)
            np.testing.assert_array_equal(constants[f"{tensor.name}_fp16"], expected)


@pytest.mark.parametrize("kept", ["nothing", "everything", "every other", "norms", "block"])
def test_any_set_gives_a_sound_graph(chain: Chain, kept: str) -> None:
    names = sorted(everything(chain.graph))
    keep = {
        "nothing": set(),
        "everything": set(names),
        "every other": set(names[::2]),
        "norms": {n for n in names if n.endswith(("/LayerNormalization", "/Softmax"))},
        "block": {n for n in names if n.startswith(BLOCKS)},
    }[kept]
    before = chain.graph.SerializeToString()
    half = fp16_from_fp32(chain.graph, keep)
    assert chain.graph.SerializeToString() == before  # left alone
    check(half)
    found = node_precisions(half)
    assert {found[name] for name in keep if name in found} <= {"fp32"}
    if kept == "everything":
        assert precision_counts(half) == precision_counts(chain.graph)
        assert not casts(half)
    elif kept == "nothing":
        assert set(precision_counts(half)) == {"fp16"}
        assert len(casts(half)) == 3  # images, bin_probs, values
    images = {"images": images_of(chain.tower, 4).numpy()}
    expected = cpu_session(chain.graph).run(None, images)
    for got, reference, budget in zip(
        cpu_session(rounded_twin(half)).run(None, images), expected, (0.3, 0.02), strict=True
    ):
        assert np.abs(got - reference).max() <= (1e-5 if kept == "everything" else budget)


def test_what_only_moves_numbers_never_rounds_them(chain: Chain) -> None:
    keep = {node.name for node in chain.graph.graph.node if node.op_type not in MOVERS}
    half = fp16_from_fp32(chain.graph, keep)
    check(half)
    moved = [name for name, kind in node_precisions(half).items() if kind == "fp16"]
    # the class token is a constant until something reads it
    assert moved == (["image_encoder/Expand"] if chain.tower == "vit" else [])
    assert all(onnx.helper.get_node_attr_value(c, "to") == TensorProto.FLOAT for c in casts(half))


def test_shared_constant_gets_two_forms(chain: Chain) -> None:
    """The exporter gives nodes with equal constants the same one: LayerNorm weights, scales."""
    if chain.tower == "resnet":
        pytest.skip("no nodes of a ResNet have equal constants")
    names = {t.name for t in chain.graph.graph.initializer if t.data_type == TensorProto.FLOAT}
    readers = [n for n in chain.graph.graph.node if n.name.startswith("image_encoder")]
    counts = Counter(name for node in readers for name in set(node.input) & names)
    ((shared, count),) = counts.most_common(1)
    assert count >= 2
    first, *others = [node for node in readers if shared in node.input]
    half = fp16_from_fp32(chain.graph, {first.name})
    inputs = {node.name: node.input for node in half.graph.node}
    types = {t.name: t.data_type for t in half.graph.initializer}
    position = list(first.input).index(shared)
    assert types[inputs[first.name][position]] == TensorProto.FLOAT
    for node in others:
        name = inputs[node.name][list(node.input).index(shared)]
        assert types[name] == TensorProto.FLOAT16


@pytest.mark.parametrize("number", [7e4, -1e9])
def test_weight_beyond_fp16_is_not_clamped(chain: Chain, number: float) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(chain.graph)
    assert nodes_beyond_fp16(model) == set()
    (tensor,) = [t for t in model.graph.initializer if t.name == "image_encoder.conv1.weight"]
    weight = numpy_helper.to_array(tensor).copy()
    weight[0, 0, 0, 0] = number
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    assert nodes_beyond_fp16(model) == {"image_encoder.conv1/Conv"}
    half = fp16_from_fp32(model, ())
    check(half)
    assert node_precisions(half)["image_encoder.conv1/Conv"] == "fp32"
    (kept,) = [t for t in half.graph.initializer if t.name == tensor.name]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), weight)
    weight[0, 0, 0, 0] = FP16_MAX
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    assert nodes_beyond_fp16(model) == set()


def test_constant_nodes_are_converted() -> None:
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    two = numpy_helper.from_array(np.float32(2.1), "two")
    nodes = [
        make("Constant", [], ["c"], "a/Constant", value=two),
        make("Constant", [], ["d"], "a/Constant_1", value_float=3.1),
        make("Mul", ["x", "c"], ["m"], "a/Mul"),
        make("Add", ["m", "d"], ["y"], "b/Add"),
    ]
    x, y = (value(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "g", [x], [y])
    opset = [onnx.helper.make_opsetid("", 18)]
    half = fp16_from_fp32(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), {"b/Add"}
    )
    check(half)
    assert node_precisions(half) == {"a/Mul": "fp16", "b/Add": "fp32"}
    (got,) = cpu_session(rounded_twin(half)).run(None, {"x": np.ones(1, np.float32)})
    assert got[0] == np.float32(np.float16(2.1)) + np.float32(3.1)


@pytest.mark.parametrize("kept", ["head", "norms"])
def test_tensorrt_builds_it_strongly_typed(chain: Chain, kept: str, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    keep = head_nodes(chain.graph)
    if kept == "norms":
        keep |= {n for n in everything(chain.graph) if "ln_" in n or n.endswith("/Softmax")}
    half = fp16_from_fp32(chain.graph, keep)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(half.SerializeToString()), parser.get_error(0).desc()
    images = network.get_input(0)
    assert images.dtype == trt.float32
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(batch, *tuple(images.shape)[1:]) for batch in (1, 2, 4)])
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert len(bytes(builder.build_serialized_network(network, config))) > 10_000
