"""The patch embedding that multiplies pixels in INT8, and the graph optimised beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.graph.types import features_name
from numclip_export.int8.layers import quantisable
from numclip_export.int8.patch_embedding import with_pixel_stem
from numclip_export.int8.quantize import dynamic_int8, optimised_for_cpu
from numclip_runtime import Preprocessing
from numclip_runtime.preprocess import normalise
from tests.numclip.tiny import TASK, TEXT, TOWERS, tiny_model

SPEC = Preprocessing(crop=32, resize=36)
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 2}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
PLANES = np.stack([normalise(image, SPEC) for image in PIXELS])


def graph_of(weights: str) -> onnx.ModelProto:
    torch.manual_seed(0)
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    model = NumClip(ModelConfig(config), TASK).eval()
    conv = model.image_encoder.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    if weights == "exact":  # normalised, these are whole numbers: INT8 rounds nothing
        with torch.no_grad():
            whole = torch.randint(-127, 128, conv.weight.shape).float()
            whole[:, :, 0, 0] = 127
            conv.weight.copy_(whole * torch.tensor(SPEC.std)[:, None, None] / 300)
    folded = FoldedModel(model, fused_attention=True)
    return onnx_from_folded(folded, 32, opset=23)


def outputs(model: onnx.ModelProto, images: np.ndarray[Any, Any], name: str) -> Any:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    if name not in {value.name for value in model.graph.output}:
        watched.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([name], {"images": images})[0]


def patches_of(model: onnx.ModelProto) -> str:
    return str(next(n.output[0] for n in model.graph.node if n.op_type == "Transpose"))


@pytest.mark.parametrize(("weights", "allowed"), [("exact", 1e-5), ("random", 1e-2)])
def test_patches_are_those_of_the_convolution(weights: str, allowed: float) -> None:
    """`allowed` is the difference's share of the largest number: half a step of 127 and some."""
    model = graph_of(weights)
    name = patches_of(model)
    stem = with_pixel_stem(model, SPEC)
    assert stem is not None
    onnx.checker.check_model(stem)
    expected, got = outputs(model, PLANES, name), outputs(stem, PIXELS, name)
    assert got.shape == expected.shape == (3, 16, 64)
    assert np.abs(got - expected).max() < allowed * np.abs(expected).max()


def test_nothing_but_the_beginning_changes() -> None:
    model = graph_of("random")
    stem = with_pixel_stem(model, SPEC)
    assert stem is not None
    (images,) = stem.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = images.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 32, 32, 3]
    assert not any(node.op_type == "Conv" for node in stem.graph.node)
    before, after = ([n.name for n in m.graph.node] for m in (model, stem))
    assert [name for name in before if name not in after] == [
        "image_encoder.conv1/Conv",
        "image_encoder/Reshape",
        "image_encoder/Transpose",
    ]
    assert len(set(after)) == len(after)
    assert len(model.graph.input[0].type.tensor_type.shape.dim) == 4, "the source stays as it was"
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_other_beginnings_are_left_alone() -> None:
    resnet = onnx_from_folded(FoldedModel(tiny_model("resnet")), 64, opset=23)
    side = TOWERS["resnet"]["vision_cfg"]["image_size"]
    assert with_pixel_stem(resnet, Preprocessing(crop=side, resize=side)) is None
    assert with_pixel_stem(graph_of("random"), Preprocessing(36, 36)) is None, "4 pixels are left"
    padded = graph_of("random")
    (conv,) = [node for node in padded.graph.node if node.op_type == "Conv"]
    for attribute in conv.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [1, 1, 1, 1]
    assert with_pixel_stem(padded, SPEC) is None


def test_optimised_beforehand_is_the_same_graph() -> None:
    model = graph_of("random")
    quantised = dynamic_int8(model, quantisable(model, "dynamic"))
    stem = with_pixel_stem(quantised, SPEC)
    assert stem is not None
    features = features_name(model)
    optimised, by = optimised_for_cpu(stem, features)
    assert by == f"onnxruntime {ort.__version__}"
    assert {entry.domain for entry in optimised.opset_import} == {"", "com.microsoft"}
    assert len(optimised.graph.node) < len(stem.graph.node)
    assert "DynamicQuantizeMatMul" in {node.op_type for node in optimised.graph.node}
    assert [value.name for value in optimised.graph.output] == ["values", "bin_probs"]
    for name in ("values", features):  # the features are known by their name, too
        expected, got = outputs(stem, PIXELS, name), outputs(optimised, PIXELS, name)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
