"""Every graph that export writes is one that the runtime accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_export.int8.calibration import Int8Data
from numclip_export.int8.layers import quantisable
from numclip_export.int8.write import quantise
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_runtime import ModelMetadata, Preprocessing
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import DOMAINS, check_graph
from tests.numclip.tiny import RESNET, TASK, TEXT, VIT


def timm(name: str, size: int, **options: Any) -> dict[str, Any]:
    tower = {"timm_model_name": name, "timm_model_pretrained": False, "timm_proj": "linear"}
    return tower | {"timm_pool": "avg", "image_size": size} | options


TOWERS: dict[str, dict[str, Any]] = {  # `vision_cfg` of open_clip
    "vit": VIT,
    "vit-scaled-average": {
        **VIT, "ls_init_value": 0.1, "pool_type": "avg", "final_ln_after_pool": True,
        "no_ln_pre": True,
    },
    "vit-pooler": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2},
    "resnet": RESNET,
    "convnext": timm("convnext_atto", 32),
    "timm-vit": timm("test_vit", 160, timm_pool="token", timm_proj="none"),
    "timm-mobilenet": timm("mobilenetv2_050", 64, timm_proj="none"),
}  # fmt: skip


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("tower", TOWERS)
def test_what_export_writes_is_accepted(tower: str, opset: int, tmp_path: Path) -> None:
    width = {"timm-vit": 64, "timm-mobilenet": 1280}.get(tower, 32)
    config = {"embed_dim": width, "quick_gelu": opset == 18, "text_cfg": TEXT}
    model = NumClip(ModelConfig(config | {"vision_cfg": TOWERS[tower]}), TASK).eval()
    side = TOWERS[tower]["image_size"]
    fused = opset >= 23
    graph = onnx_from_folded(FoldedModel(model, fused_attention=fused), side, opset=opset)
    written = {"fp32": graph, "fp16": fp16_from_fp32(graph, head_nodes(graph))}
    metadata = ModelMetadata(TASK, Preprocessing(side, side), "int8", input="uint8")
    pixels = with_uint8_input(graph, metadata.preprocessing)
    written["fp16 of pixels"] = fp16_from_fp32(pixels, head_nodes(pixels))
    images = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    none = np.zeros((0, side, side, 3), np.uint8)
    data = Int8Data(images, "validation", None, none, np.zeros(0, np.float32))
    for form in ("dynamic", "qdq", "static"):
        if quantisable(graph, form) and (form != "static" or opset > 18):
            written[form] = quantise(graph, metadata, form, data).written
    for form, result in written.items():
        accept(result, tmp_path / f"{form}.onnx")
        for node in result.graph.node:
            assert node.op_type.encode() in DOMAINS[node.domain.encode()]


def accept(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())
    with OpenModel(path) as file:
        check_graph(file)
