"""CLIP backbones: configurations by name or file, and weights from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from numclip.model.backbone import build_clip, clip_config, load_backbone, open_clip
from numclip_runtime import UsageError
from tests.numclip.tiny import TEXT, TOWERS, VIT

CONFIG = TOWERS["vit"]


def write(folder: Path, config: object) -> str:
    path = folder / "tiny.json"
    path.write_text(json.dumps(config), "utf-8")
    return str(path)


def test_configuration_by_name_and_by_file(tmp_path: Path) -> None:
    assert clip_config("ViT-B-32")["embed_dim"] == 512
    assert clip_config("ViT-B-32") is not clip_config("ViT-B-32")  # the caller may change it
    assert clip_config(write(tmp_path, CONFIG)) == CONFIG


def test_building_leaves_the_configuration_alone() -> None:
    config = CONFIG | {"custom_text": True}
    assert isinstance(build_clip(config), open_clip.CustomTextCLIP)
    assert config == CONFIG | {"custom_text": True}
    assert isinstance(build_clip(CONFIG), open_clip.CLIP)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], "lacks embed_dim, vision_cfg or text_cfg"),
        ({"embed_dim": 32, "vision_cfg": VIT}, "lacks embed_dim, vision_cfg or text_cfg"),
        (CONFIG | {"vision_cfg": 1}, "lacks embed_dim, vision_cfg or text_cfg"),
        (CONFIG | {"text_cfg": None}, "lacks embed_dim, vision_cfg or text_cfg"),
    ],
)
def test_file_that_is_no_configuration(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(UsageError, match=rf"tiny\.json: {message}"):
        clip_config(write(tmp_path, config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": "wide"}, r"cannot build this configuration \("),
        ({"vision_cfg": VIT | {"kernel": 3}}, r"cannot build this .*'kernel'"),
        ({"text_cfg": TEXT | {"hf_model_name": "roberta-base"}}, "Hugging Face.* not supported"),
        ({"multimodal_cfg": {}}, "multimodal text tower are not supported"),
    ],
)
def test_configuration_that_cannot_be_built(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_clip(CONFIG | change)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "xlm-roberta-base-ViT-B-32"])
def test_backbone_with_another_tokenizer_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not supported"):
        build_clip(clip_config(name))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'ViT-B-33': give an open_clip arch"):
        clip_config("ViT-B-33")
    with pytest.raises(UsageError, match=r"gone\.json: cannot read this configuration"):
        clip_config(str(tmp_path / "gone.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match=r"bad\.json: cannot read this configuration"):
        clip_config(str(tmp_path / "bad.json"))


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = build_clip(CONFIG).state_dict()
    weights = tmp_path / "weights.pt"
    torch.save(expected, weights)
    clip, config = load_backbone(write(tmp_path, CONFIG), str(weights))
    assert config == CONFIG
    state = clip.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    clip, config = load_backbone(write(tmp_path, CONFIG), str(weights), quick_gelu=False)
    assert config == CONFIG | {"quick_gelu": False}
    assert any(isinstance(module, torch.nn.GELU) for module in clip.modules())


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build_clip(TOWERS["resnet"]).state_dict(), weights)
    name = write(tmp_path, CONFIG)
    with pytest.raises(UsageError, match=r"cannot load weights '.*weights\.pt' into .*tiny\.json"):
        load_backbone(name, str(weights))
    weights.write_bytes(b"")
    with pytest.raises(UsageError, match=r"cannot load weights"):
        load_backbone(name, str(weights))
    with pytest.raises(UsageError, match=r"'opneai' is neither a file nor a tag .*tags: none"):
        load_backbone(name, "opneai")
    with pytest.raises(UsageError, match=r"tag of open_clip for RN50 \(tags: openai, "):
        load_backbone("RN50", "opneai")
