"""Nodes carry the names of the parts that people know."""

from __future__ import annotations

import onnx
import pytest

from numclip_export.graph.names import collapse, in_image_encoder, module_of, name_nodes
from numclip_export.graph.types import features_name
from tests.export.chain import Chain

EXPECTED = {
    "vit": {
        "image_encoder.conv1/Conv",
        "image_encoder.ln_pre/LayerNormalization",
        "image_encoder.transformer.resblocks.0.ln_1/LayerNormalization",
        "image_encoder.transformer.resblocks.0.attn/Softmax",
        "image_encoder.transformer.resblocks.0.mlp.c_fc/MatMul",
        "image_encoder.transformer.resblocks.0/Add",
        "image_encoder.transformer.resblocks.0/Add_1",  # the second residual
        "image_encoder/MatMul",  # the projection
    },
    "resnet": {
        "image_encoder.layer1.0.conv1/Conv",  # not bn1, which melted into it
        "image_encoder.layer2.0.downsample.0/Conv",
        "image_encoder.layer4.0/Add",
        "image_encoder.layer4.0.act3/Relu",
        "image_encoder.attnpool/Softmax",
        "image_encoder.attnpool.q_proj/Gemm",
    },
}
HEAD = {"adapter.down/Gemm", "adapter.up/Gemm", "head/Softmax", "head/MatMul"}
REGRESSOR = {"regressor.fc/Gemm", "regressor.delta/Gemm", "regressor/Tanh", "regressor/ReduceSum"}


def test_parts_by_name(chain: Chain) -> None:
    names = [node.name for node in chain.graph.graph.node]
    assert len(set(names)) == len(names)
    assert EXPECTED[chain.tower] | HEAD | REGRESSOR <= set(names)
    assert {name.partition("/")[0].partition(".")[0] for name in names} == {
        "image_encoder",
        "adapter",
        "head",
        "regressor",
    }
    for node in chain.graph.graph.node:
        operator = node.name.rpartition("/")[2]
        assert operator.partition("_")[0] == node.op_type


def test_features_leave_the_encoder(chain: Chain) -> None:
    name = features_name(chain.graph)
    (value,) = [v for v in chain.graph.graph.value_info if v.name == name]
    assert [d.dim_value for d in value.type.tensor_type.shape.dim][1:] == [32]  # (B, D)


def test_module_of() -> None:
    assert module_of("image_encoder.ln_pre/LayerNormalization") == "image_encoder.ln_pre"
    assert in_image_encoder("image_encoder.ln_pre/LayerNormalization")
    assert in_image_encoder("image_encoder/Add_1")
    assert not in_image_encoder("head/Softmax")
    assert not in_image_encoder("image_encoders/Softmax")


ALL = ("a/X", "a.0/X", "a.0.b/X", "a.0.b/Y", "a.10/X", "c/X")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ((), ()),
        (("c/X",), ("c",)),
        (("a.0.b/X",), ("a.0.b/X",)),
        (("a.0.b/X", "a.0.b/Y"), ("a.0.b",)),
        (("a.0.b/X", "a.0.b/Y", "a.0/X"), ("a.0",)),  # not a.10, not a
        (("a/X",), ("a/X",)),
        (ALL, ("a", "c")),
    ],
)
def test_collapse(chosen: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert collapse(chosen, ALL) == expected


def test_graph_without_notes() -> None:
    make = onnx.helper.make_node
    nodes = [make("Relu", ["x"], ["a"]), make("Relu", ["a"], ["y"])]
    value = onnx.helper.make_tensor_value_info
    x, y = (value(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]))
    name_nodes(model)
    assert [node.name for node in model.graph.node] == ["head/Relu", "head/Relu_1"]
