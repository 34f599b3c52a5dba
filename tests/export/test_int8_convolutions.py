"""INT8 files of convolutional networks for a CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from numclip.checkpoint import Checkpoint, save_checkpoint
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export.cli import main
from numclip_export.cosine import centred_cosines
from numclip_export.fold import FoldedModel
from numclip_export.graph.edit import Constants
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.graph.types import features_name
from numclip_export.int8.layers import chain_nodes, convolutions
from numclip_export.int8.quantize import convolutional_int8
from numclip_export.int8.smooth import smooth_chain
from numclip_export.precision.fp16_emulation import GraphRun
from numclip_runtime import Preprocessing, load
from tests.numclip.tiny import TASK, TEXT, images_of, spec_of, tiny_model, write_photos

FACTOR = 30  # of the outlier channels


def live_resnet(factor: float = 1) -> NumClip:
    """Let the blocks add to the residual stream, whose last norms open_clip starts at zero.

    Args:
        factor: How much larger one channel in each block is; the function stays, for ReLU lets
            factors through.
    """
    model = tiny_model("resnet")
    tower: Any = model.image_encoder
    with torch.no_grad():
        for number in (1, 2, 3, 4):
            block = tower.get_submodule(f"layer{number}.0")
            block.bn3.weight.fill_(0.5)
            block.bn1.weight[0] *= factor
            block.bn1.bias[0] *= factor
            block.conv2.weight[:, 0] /= factor
    return model


@pytest.fixture(scope="module")
def graphs() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = onnx_from_folded(FoldedModel(live_resnet()), 64, opset=23)
    return model, convolutional_int8(model, images_of("resnet", 64).numpy())


def test_every_convolution_multiplies_integers(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    model, int8 = graphs
    made = {name: node.op_type for node in int8.graph.node for name in node.output}
    convs = [node for node in int8.graph.node if node.op_type == "Conv"]
    assert {node.name for node in convs} == {layer.node for layer in convolutions(model)}
    assert len(convs) == 19
    assert {made[name] for node in convs for name in node.input[:2]} == {"DequantizeLinear"}
    products = [node for node in int8.graph.node if node.op_type == "MatMul"]
    assert products, "the attention at the end, and the head, stay as they are"
    assert not any(made.get(n) == "DequantizeLinear" for p in products for n in p.input)


def test_features_stay(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    model, int8 = graphs
    images = images_of("resnet", 24, seed=1).numpy()
    exact, rounded = (
        GraphRun(graph, features_name(model)).features(images) for graph in (model, int8)
    )
    cosines = centred_cosines(rounded, exact)
    assert cosines.min() > 0.98
    assert not np.array_equal(exact, rounded)


def test_balanced_chains_compute_the_same(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    model, _ = graphs
    balanced, names = onnx.ModelProto(), chain_nodes(model)
    balanced.CopyFrom(model)
    smooth_chain(balanced, names, images_of("resnet", 8).numpy())
    images = images_of("resnet", 8, seed=1).numpy()
    exact, same = (
        GraphRun(graph, features_name(model)).features(images) for graph in (model, balanced)
    )
    np.testing.assert_allclose(same, exact, rtol=0, atol=2e-5 * np.abs(exact).max())
    added = Counter(n.op_type for n in balanced.graph.node)
    added.subtract(n.op_type for n in model.graph.node)
    assert +added == {"Mul": 1}, "the end of the chain is multiplied back"
    read = [[n.input[1] for n in g.graph.node if n.op_type == "Conv"] for g in (model, balanced)]
    for before, after in zip(*read, strict=True):
        old, new = Constants(model).get(before), Constants(balanced).get(after)
        assert not np.array_equal(old, new), before


def test_what_others_read_is_not_balanced() -> None:
    weight = onnx.numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1), "w")
    steps = ("Conv", "Sigmoid", "Conv")  # a factor does not pass through Sigmoid
    tensors = ["images", "a", "b", "values"]
    nodes = [
        onnx.helper.make_node(op, [x, "w"] if op == "Conv" else [x], [y], name=f"{op}_{y}")
        for op, x, y in zip(steps, tensors[:-1], tensors[1:], strict=True)
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8])
        for name in ("images", "values")
    ]
    graph = onnx.helper.make_graph(nodes, "sigmoid", ends[:1], ends[1:], [weight])
    model, before = onnx.helper.make_model(graph), graph.SerializeToString()
    smooth_chain(model, ["Conv_a", "Conv_values"], np.ones((1, 3, 8, 8), np.float32))
    assert model.graph.SerializeToString() == before


def test_outlier_channels_do_not_coarsen_the_others() -> None:
    model = onnx_from_folded(FoldedModel(live_resnet(FACTOR)), 64, opset=23)
    int8 = convolutional_int8(model, images_of("resnet", 64).numpy())
    images = images_of("resnet", 24, seed=1).numpy()
    exact, rounded = (
        GraphRun(graph, features_name(model)).features(images) for graph in (model, int8)
    )
    # 0.978; 0.938 where channels are not balanced
    assert centred_cosines(rounded, exact).min() > 0.96


def test_calibration_on_other_images_would_clip(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    """Ranges come from the images that were given: darker ones leave no room for these."""
    model, _ = graphs
    narrow = convolutional_int8(model, images_of("resnet", 8).mul(0.01).numpy())
    images = images_of("resnet", 24, seed=1).numpy()
    exact, clipped = (
        GraphRun(graph, features_name(model)).features(images) for graph in (model, narrow)
    )
    assert centred_cosines(clipped, exact).min() < 0.9


def test_export_for_a_cpu(tmp_path: Path) -> None:
    write_photos(tmp_path, "val", 20)
    torch.manual_seed(0)
    vision = {"image_size": 128, "patch_size": None, "width": 48, "layers": [1, 1, 1, 1]}
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": TEXT}
    model = NumClip(ModelConfig(config), TASK).eval()
    spec = Preprocessing(128, 144)
    save_checkpoint(tmp_path / "x.pt", Checkpoint(model, spec, {}, str(tmp_path / "val.csv")))
    command = ["--ckpt", str(tmp_path / "x.pt"), "--int8", "--target", "cpu", "--max-batch", "8"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "x.report.json").read_text("utf-8"))
    int8 = report["artefacts"][1]
    assert int8["form"] == "qdq"
    assert int8["opset"] == 18, "onnxruntime 1.23 has no QuantizeLinear of opset 23"
    assert int8["calibration"] == {"source": "validation", "images": 20}
    assert int8["speed"]["passed"]
    assert int8["accuracy"]["passed"]
    with load(tmp_path / "x.int8.onnx") as fast, load(tmp_path / "x.onnx") as exact:
        assert fast.metadata.input == "float32"
        assert fast.metadata.optimized_by is None, "OpenVINO and others read it, too"
        photo = tmp_path / "val" / "7.png"
        assert fast.predict(photo).value == pytest.approx(exact.predict(photo).value, abs=0.15)


def test_there_is_no_calibration_to_keep(tmp_path: Path) -> None:
    write_photos(tmp_path, "val", 5)
    checkpoint = Checkpoint(live_resnet(), spec_of("resnet"), {}, str(tmp_path / "val.csv"))
    save_checkpoint(tmp_path / "x.pt", checkpoint)
    command = ["--ckpt", str(tmp_path / "x.pt"), "--int8", "--target", "cpu", "--no-verify"]
    result = CliRunner().invoke(main, [*command, "--calib-cache", str(tmp_path / "c.json")])
    assert result.exit_code == 2
    assert "--calib-cache is not used for convolutional networks on a CPU" in result.output


def test_openvino_is_as_close_to_float32(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    model, int8 = graphs
    onnx.save(int8, tmp_path / "x.onnx")
    compiled = openvino.Core().compile_model(
        str(tmp_path / "x.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    images = images_of("resnet", 24, seed=2).numpy()
    exact, ours = (GraphRun(graph, features_name(model))(images)[0] for graph in (model, int8))
    theirs = compiled({"images": images})["values"]
    errors = [float(np.abs(values - exact).mean()) for values in (ours, theirs)]  # of 30
    assert max(errors) < 0.3
    assert exact.std() > 3 * max(errors)
