"""A small vision transformer with outlier channels, as a graph, and what INT8 tests ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export import FoldedModel, onnx_from_folded
from numclip_export.int8.layers import Linear, linear_layers
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


def parts(graph: Graph) -> tuple[onnx.ModelProto, list[Linear], np.ndarray[Any, Any]]:
    return graph.model, graph.layers, graph.images
