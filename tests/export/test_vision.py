"""The rewritten vision transformer against open_clip's own, for every form that it knows."""

from typing import Any

import pytest
import torch

from numclip.model.backbone import build_clip
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.vision import ExplicitBlock, SingleQueryPool, explicit_tower
from tests.numclip.tiny import TOWERS, tiny_model

VISION: dict[str, dict[str, Any]] = {
    "plain": {},
    "three layers": {"layers": 3},
    "layer scale": {"ls_init_value": 0.3},
    "average pool": {"pool_type": "avg"},
    "norm after pool": {"final_ln_after_pool": True},
    "attention pool": {"attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2},
}


def tower_of(**vision: Any) -> torch.nn.Module:
    base = TOWERS["vit"]
    torch.manual_seed(0)
    clip = build_clip({**base, "vision_cfg": {**base["vision_cfg"], "layers": 2, **vision}})
    tower = clip.get_submodule("visual").eval()
    with torch.no_grad():  # so that a lost bias or gain is seen
        for parameter in tower.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return tower


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("vision", VISION.values(), ids=VISION)
def test_same_features_as_open_clip(vision: dict[str, Any], fused: bool) -> None:
    tower, images = tower_of(**vision), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = tower(images)
        got = explicit_tower(tower, fused=fused)(images)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_the_source_is_not_changed() -> None:
    tower = tower_of()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    explicit_tower(tower, fused=False)
    assert all(torch.equal(before[k], v) for k, v in tower.state_dict().items())
    assert not any(isinstance(module, ExplicitBlock) for module in tower.modules())


def test_only_the_class_token_leaves_the_last_block() -> None:
    blocks = explicit_tower(tower_of(layers=3), fused=False).get_submodule("transformer.resblocks")
    tokens = torch.randn(2, 5, 32)
    assert [block(tokens).shape[1] for block in blocks.children()] == [5, 5, 1]
    averaged = explicit_tower(tower_of(pool_type="avg"), fused=False)
    last = list(averaged.get_submodule("transformer.resblocks").children())[-1]
    assert last(tokens).shape[1] == 5


def test_attention_pool_of_a_resnet() -> None:
    torch.manual_seed(0)
    tower = build_clip(TOWERS["resnet"]).get_submodule("visual").eval()
    with torch.no_grad():  # so that a lost bias is seen, and weights of the mean differ
        for parameter in tower.get_submodule("attnpool").parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        images = torch.randn(3, 3, 64, 64)
        expected = tower(images)
        explicit = explicit_tower(tower, fused=False)
        got = explicit(images)
    assert isinstance(explicit.attnpool, SingleQueryPool)
    assert not isinstance(tower.attnpool, SingleQueryPool)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_other_towers_stay_as_they_are() -> None:
    unusual = tower_of(block_type="custom", qk_norm=True)
    assert explicit_tower(unusual, fused=True) is unusual


@pytest.mark.parametrize(("fused", "opset", "attention"), [(True, 23, 1), (False, 18, 0)])
def test_exported_nodes(fused: bool, opset: int, attention: int) -> None:
    """One Attention node per block, or only the products and softmax that engines fuse."""
    folded = FoldedModel(tiny_model("vit"), fused_attention=fused)
    model = onnx_from_folded(folded, 32, opset=opset)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Attention") == attention
    assert kinds.count("Softmax") == 2 - attention  # the other is the head's
    assert kinds.count("Shape") <= 1  # the class token's batch
    assert "Squeeze" not in kinds  # MultiheadAttention's packing
    if fused:  # heads lie side by side in the node's inputs: nothing is moved around it
        assert kinds.count("Transpose") == 1  # the patches'
