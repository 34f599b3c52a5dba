"""Parts of the image tower that are trained; low-rank updates are merged before saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from numclip.model.backbone import build_clip, clip_config, image_config
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.model.tuning import LowRank, add_low_rank, merge_low_rank, tuned_parameters
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.fit import fit
from numclip.training.optim import freeze
from numclip_export.fold import FoldedModel
from numclip_runtime import Preprocessing, UsageError
from tests.numclip.tiny import TASK, TOWERS, spec_of, tiny_model, write_photos

CLIPS: dict[str, dict[str, Any]] = {
    "vit": image_config(TOWERS["vit"]),
    "resnet": image_config(TOWERS["resnet"]),
    "timm vit": clip_config("timm/test_vit"),
    "timm mobilenet": clip_config("timm/mobilenetv2_050"),
}
EACH = pytest.mark.parametrize("name", CLIPS)


def tower_of(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    tower = build_clip(CLIPS[name], words=False).get_submodule("visual").eval()
    side = CLIPS[name]["vision_cfg"]["image_size"]
    return tower, torch.randn(2, 3, side, side)


@EACH
@torch.no_grad()
def test_updates_start_at_nothing_and_merge_to_the_same_function(name: str) -> None:
    tower, images = tower_of(name)
    plain, keys = tower(images), list(tower.state_dict())
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    add_low_rank(tower, 3)
    torch.testing.assert_close(tower(images), plain)
    updates = [module for module in tower.modules() if isinstance(module, LowRank)]
    assert updates
    for update in updates:
        update.up.normal_(std=0.05)
    changed = tower(images)
    assert (changed - plain).abs().max() > 1e-3
    merge_low_rank(tower)
    torch.testing.assert_close(tower(images), changed, atol=1e-4, rtol=1e-4)
    assert tower.state_dict().keys() == set(keys)
    for key, value in tower.state_dict().items():
        change = (value - before[key]).double()
        if change.any():  # of rank 3 at most: the fourth singular value is rounding
            values = torch.linalg.svdvals(change.flatten(1))
            assert values[0] > 1e-3
            assert (values[3:] < 1e-4 * values[0]).all()


def test_every_linear_layer_of_a_vision_transformer_is_updated() -> None:
    tower, _ = tower_of("vit")
    add_low_rank(tower, 2)
    names = {n.partition(".parametrizations.")[::2] for n, _ in tower.named_parameters()}
    updated = {f"{module}.{rest.split('.')[0]}" for module, rest in names if rest}
    block = "transformer.resblocks.0"
    assert updated == {
        f"{block}.attn.in_proj_weight", f"{block}.attn.out_proj.weight",
        f"{block}.mlp.c_fc.weight", f"{block}.mlp.c_proj.weight",
    }  # fmt: skip


def test_nothing_linear() -> None:
    with pytest.raises(UsageError, match="no linear layer; give --tune projector or all"):
        add_low_rank(nn.Sequential(nn.Conv2d(3, 4, 3)), 2)


@pytest.mark.parametrize(
    ("name", "projector"),
    [
        ("vit", {"proj"}),
        ("resnet", {"attnpool.c_proj.weight", "attnpool.c_proj.bias"}),
        ("timm vit", {"trunk.blocks.5.mlp.fc2.weight", "trunk.blocks.5.mlp.fc2.bias"}),
        ("timm mobilenet", {"trunk.conv_head.weight"}),
    ],
)
def test_the_last_layer(name: str, projector: set[str]) -> None:
    tower, _ = tower_of(name)
    chosen, still = tuned_parameters(tower, "projector")
    names = {n for n, p in tower.named_parameters() if any(p is c for c in chosen)}
    assert names == projector
    assert len(chosen) + len(still) == len(list(tower.parameters()))


@pytest.mark.parametrize("tune", ["all", "projector", "lora", "none"])
def test_only_what_is_tuned_has_gradients(tune: Any) -> None:
    model = tiny_model(clip=CLIPS["vit"], vectors="prototypes")
    if tune == "lora":
        add_low_rank(model.image_encoder, 2)
    freeze(model, LearningRates(), tune)
    trained = [n for n, p in model.image_encoder.named_parameters() if p.requires_grad]
    everything = len(list(model.image_encoder.parameters()))
    want = {"all": everything, "projector": 1, "lora": 2 * 4, "none": 0}[tune]
    assert len(trained) == want
    assert model.prototypes.weight.requires_grad


@pytest.mark.parametrize("name", ["vit", "timm mobilenet"])
@pytest.mark.parametrize("tune", ["projector", "lora", "none"])
def test_fit_leaves_a_plain_tower(name: str, tune: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NumClip(ModelConfig(CLIPS[name], vectors="prototypes"), TASK).eval()
    keys = list(model.state_dict())
    before = {key: value.clone() for key, value in model.image_encoder.state_dict().items()}
    side = CLIPS[name]["vision_cfg"]["image_size"]
    spec = spec_of("vit") if name == "vit" else Preprocessing(side, side)
    rates = LearningRates(image=1e-2, rank=1e-2, adapter=1e-3, regressor=1e-3)
    config = TrainConfig(
        epochs=1, batch_size=8, rates=rates, optimizer="adamw", workers=0, tune=tune, lora_rank=2
    )
    train, val = write_photos(tmp_path, "train", 16), write_photos(tmp_path, "val", 4)
    fit(model, train, val, spec, config)
    assert model.state_dict().keys() == set(keys)
    after = model.image_encoder.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert bool(changed) == (tune != "none")
    assert not any("running" in key for key in changed)  # statistics of batches stay
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(
            FoldedModel(model)(images)[0], model(images).values, atol=1e-4, rtol=0
        )
    fit(model, train, val, spec, config)  # and again
    assert model.state_dict().keys() == set(keys)
