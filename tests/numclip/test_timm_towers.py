"""Image towers of timm: built without the network, loaded from a file as data, exported."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.model.backbone import build_clip, clip_config, load_backbone
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.model.timm_towers import say_other_statistics
from numclip_export.fold import FoldedModel
from numclip_runtime import Preprocessing, UsageError
from tests.numclip.tiny import TASK

timm: Any = pytest.importorskip("timm")
# Pooled by an average, a class token, an average inside the head, and a layer before the classifier
NAMES = ("test_efficientnet", "test_vit", "test_convnext", "mobilenetv3_small_050")


def trained(name: str, classes: int = 7) -> torch.nn.Module:
    torch.manual_seed(5)
    tower: torch.nn.Module = timm.create_model(name, num_classes=classes).eval()
    return tower


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_are_timms_own_before_its_classifier(name: str, tmp_path: Path) -> None:
    tower: Any = trained(name)
    torch.save({"state_dict": {f"module.{k}": v for k, v in tower.state_dict().items()}},
               tmp_path / "a.pt")  # fmt: skip
    lean = {k: v for k, v in tower.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(lean, tmp_path / "a.safetensors")
    size = tower.pretrained_cfg["input_size"][1]
    images = torch.randn(2, 3, size, size)
    want = tower.forward_head(tower.forward_features(images), pre_logits=True)
    for file in ("a.pt", "a.safetensors"):
        clip, config = load_backbone(f"timm/{name}", str(tmp_path / file), words=False)
        assert config["vision_cfg"]["image_size"] == size
        assert config["embed_dim"] == want.shape[1]
        got = clip.eval().get_submodule("visual")(images)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert want.std() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_round_trip_and_fold(name: str, tmp_path: Path) -> None:
    config = clip_config(f"timm/{name}")
    side = config["vision_cfg"]["image_size"]
    model = NumClip(ModelConfig(config, vectors="prototypes"), TASK).eval()
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(model, Preprocessing(side, side)))
    loaded = load_checkpoint(path).model
    images = torch.randn(3, 3, side, side)
    want = model(images)
    assert torch.equal(loaded(images).values, want.values)
    values, probs = FoldedModel(loaded)(images)
    torch.testing.assert_close(values, want.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(probs, want.bin_probs, atol=1e-5, rtol=0)


def test_weights_of_another_tower_are_refused(tmp_path: Path) -> None:
    torch.save(trained("test_vit").state_dict(), tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"into timm/test_efficientnet: .*missing \d+ keys"):
        load_backbone("timm/test_efficientnet", str(tmp_path / "a.pt"), words=False)
    torch.save({"x": [1, 2]}, tmp_path / "b.pt")
    with pytest.raises(UsageError, match=r"holds no weights"):
        load_backbone("timm/test_vit", str(tmp_path / "b.pt"), words=False)
    half = dict(list(trained("test_vit").state_dict().items())[3:])
    torch.save(half, tmp_path / "c.pt")
    with pytest.raises(UsageError, match=r"missing 3 keys"):
        load_backbone("timm/test_vit", str(tmp_path / "c.pt"), words=False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "no architecture of timm"),
        ("", "no architecture of timm"),
        ("local-dir:/etc", "no architecture of timm"),
        ("hf-hub:org/x", "no architecture of timm"),
        ("../test_vit", "no architecture of timm"),
    ],
)
def test_what_is_no_tower(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        clip_config(f"timm/{name}")


def test_words_need_a_text_tower() -> None:
    config = clip_config("timm/test_vit")
    with pytest.raises(UsageError, match="no text tower to compare words with; train with"):
        build_clip(config)
    with pytest.raises(UsageError, match="no text tower"):
        load_backbone("timm/test_vit")


def test_other_pixel_statistics_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_other_statistics("test_vit", "imagenet")
    assert "expect other pixel statistics: give --normalize half" in capsys.readouterr().err
    say_other_statistics("test_vit", "half")
    say_other_statistics("mobilenetv2_100", "imagenet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
@torch.no_grad()
def test_levels_are_means_and_spreads_of_timms_own_feature_maps(name: str, tmp_path: Path) -> None:
    tower: Any = trained(name)
    save_file(tower.state_dict(), tmp_path / "a.safetensors")
    size = tower.pretrained_cfg["input_size"][1]
    images = torch.randn(3, 3, size, size)
    want = []
    for level in tower.forward_intermediates(images, intermediates_only=True):
        pixels = level.flatten(2)
        want += [pixels.mean(2), pixels.std(2, unbiased=False)]
    file = str(tmp_path / "a.safetensors")
    clip, config = load_backbone(f"timm/{name}", file, words=False, levels=True)
    got = clip.eval().get_submodule("visual")(images)
    torch.testing.assert_close(got, torch.cat(want, 1), atol=1e-4, rtol=1e-4)
    assert config["embed_dim"] == got.shape[1]
    model = NumClip(ModelConfig(config, vectors="prototypes"), TASK, clip).eval()
    spec = Preprocessing(crop=size, resize=size)
    save_checkpoint(tmp_path / "c.pt", Checkpoint(model, spec))
    again = load_checkpoint(tmp_path / "c.pt").model
    torch.testing.assert_close(again(images).values, model(images).values)
    folded = FoldedModel(model).eval()
    values, _ = folded(images)
    torch.testing.assert_close(values, model(images).values, atol=1e-4, rtol=1e-4)


def test_a_tower_takes_another_image_size_where_it_can() -> None:
    assert clip_config("timm/test_efficientnet", image_size=96)["vision_cfg"]["image_size"] == 96
    with pytest.raises(UsageError, match="turns a picture of 96 pixels into one vector"):
        clip_config("timm/vit_tiny_patch16_224", image_size=96)
    with pytest.raises(UsageError, match="--image-size is for image towers of timm"):
        clip_config("ViT-B-32", image_size=96)
