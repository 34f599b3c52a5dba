"""Every form of the model: prompts, adapter widths, backbones; saved, loaded, folded, trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.cli.train import main
from numclip.model.backbone import build_clip, clip_config, open_clip
from numclip.model.model_config import ModelConfig, PromptConfig
from numclip.model.numclip import Adapter, NumClip
from numclip.training.config import LearningRates, LossMode, TrainConfig
from numclip.training.losses import batch_losses, fcrc_image_to_text, fcrc_text_to_image
from numclip.training.optim import RAdamReleased, freeze, make_optimizer
from numclip.training.ordinal_losses import ranked_probability_score
from numclip_export.fold import FoldedModel
from numclip_runtime import ModelError, UsageError
from tests.numclip.tiny import TASK, TEXT, TOWERS, images_of, spec_of, tiny_model, write_photos

PROMPTS = (
    PromptConfig(),
    PromptConfig(phrase_position="middle", rank_specific_context=True, random_context_tokens=3),
    PromptConfig("rank", rank_interpolation="inverse", num_base_ranks=2),
    PromptConfig("rank", base_phrases=("dark", "not bright", "bright"), phrase_position="front"),
)
EACH_PROMPT = pytest.mark.parametrize("prompts", PROMPTS, ids=["default", "own", "rank", "named"])
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


def siglip(**vision: Any) -> dict[str, Any]:
    """Return a configuration with SigLIP's mechanics and CLIP's tokenizer."""
    config = TOWERS["vit"] | {"custom_text": True, "init_logit_bias": -10, "text_cfg": SIGLIP_TEXT}
    return config | ({"vision_cfg": vision} if vision else {})


@EACH_PROMPT
@torch.no_grad()
def test_round_trip(tmp_path: Path, prompts: PromptConfig) -> None:
    model = tiny_model(prompts=prompts, adapter_width=5)
    model.prompt_learner.rank_embeds.normal_(std=0.5)
    model.prompt_learner.context_embeds.normal_(std=0.5)
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model, spec_of("vit")))
    loaded = load_checkpoint(tmp_path / "a.pt").model
    assert loaded.config == model.config
    images = images_of("vit", 2)
    for got, want in zip(loaded(images), model(images), strict=True):
        assert torch.equal(got, want)
    values, probs = FoldedModel(loaded)(images)
    torch.testing.assert_close(values, model(images).values, atol=1e-4, rtol=0)
    torch.testing.assert_close(probs, model(images).bin_probs, atol=1e-5, rtol=0)


def test_config_as_json_and_from_before_there_were_prompts(tmp_path: Path) -> None:
    config = ModelConfig(TOWERS["vit"], prompts=PROMPTS[-1])
    assert ModelConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
    save_checkpoint(tmp_path / "a.pt", Checkpoint(tiny_model(), spec_of("vit")))
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    for newer in ("prompts", "adapter_width", "vectors", "head", "grid_points"):
        del content["config"][newer]
    torch.save(content, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt").model.config == tiny_model().config
    content["config"]["prompts"] = {"kind": "soft"}
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match=r"bad\.pt: .* 'kind' must be one of plain, rank"):
        load_checkpoint(tmp_path / "bad.pt")


@pytest.mark.parametrize(("given", "hidden"), [(None, 8), (1, 1), (100, 100)])
def test_adapter_width(given: int | None, hidden: int) -> None:
    down = tiny_model(adapter_width=given).image_adapter.fc[0]
    assert isinstance(down, nn.Linear)
    assert down.weight.shape == (hidden, 32)
    assert Adapter(3, 4, 0.8).fc[0].weight.shape == (1, 3)
    with pytest.raises(UsageError, match="the adapter's width must be at least 1, got 0"):
        Adapter(32, 4, 0.8, 0)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("pool", ["first", "last"])
@torch.no_grad()
def test_other_readouts_and_no_mask_equal_open_clip(custom: bool, pool: str) -> None:
    config = siglip() | {"custom_text": custom, "text_cfg": SIGLIP_TEXT | {"pool_type": pool}}
    clip: Any = build_clip(config)
    text = getattr(clip, "text", clip)
    text.token_embedding.weight.normal_(std=0.5)
    features = NumClip(ModelConfig(config), TASK, clip).text_features()
    sentences = [f"{TASK.context} {phrase}." for phrase in TASK.phrases]
    expected = clip.encode_text(open_clip.tokenize(sentences))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-3


@torch.no_grad()
def test_timm_tower_and_logit_bias() -> None:
    config = siglip(
        image_size=224,
        timm_model_name="vit_tiny_patch16_224",
        timm_model_pretrained=False,
        timm_pool="map",
        timm_proj="none",
    ) | {"embed_dim": 192}
    clip: Any = build_clip(config).eval()
    model = NumClip(ModelConfig(config, adapter_ratio=0.0), TASK, clip).eval()
    images = torch.randn(1, 3, 224, 224)
    sentences = [f"{TASK.context} {phrase}." for phrase in TASK.phrases]
    biased, _ = clip.get_logits(images, open_clip.tokenize(sentences))
    out = model(images)
    torch.testing.assert_close(out.logits - 10, biased, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.bin_probs, biased.softmax(1))


def test_text_tower_without_projection() -> None:
    config = TOWERS["vit"] | {"text_cfg": TEXT | {"proj_type": "none"}}
    assert NumClip(ModelConfig(config), TASK).text_features().shape == (3, 32)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-B-16-SigLIP", "has the tokenizer timm/ViT-B-16-SigLIP with 32000 tokens, while"),
        ("ViT-B-16-SigLIP2", "with 256000 tokens, while prompts use CLIP's byte-pair"),
        ("ViT-H-14-CLIPA", "the tokenizer bert-base-uncased with 32000 tokens"),
    ],
)
def test_other_tokenizer_is_named(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        build_clip(clip_config(name))


@pytest.mark.parametrize("change", [{"pool_type": "eos"}, {"embed_cls": True}])
def test_other_readout_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="another pooling than argmax, first, last are not supp"):
        build_clip(TOWERS["vit"] | {"text_cfg": TEXT | change})


@pytest.mark.parametrize(
    ("name", "width", "text_width"), [("RN50", 1024, 512), ("ViT-L-14", 768, 768)]
)
@torch.no_grad()
def test_named_backbones_at_full_width(name: str, width: int, text_width: int) -> None:
    config = clip_config(name)
    if name == "ViT-L-14":  # one layer each: all 36 take 2 GB and 4 s
        for part in ("vision_cfg", "text_cfg"):
            config[part] = config[part] | {"layers": 1}
    model = NumClip(ModelConfig(config), TASK).eval()
    assert model.image_adapter.fc[0].weight.shape == (width // 4, width)
    assert model.prompt_learner.context_embeds.shape[1] == text_width
    assert model.text_features().shape == (TASK.num_bins, width)
    out = model(torch.randn(1, 3, 224, 224))
    assert out.logits.shape == (1, TASK.num_bins)
    assert out.values.isfinite().all()


@EACH_PROMPT
def test_words_are_trained(prompts: PromptConfig) -> None:
    model = tiny_model(prompts=prompts)
    rates = LearningRates(image=0, context=1e-2, rank=1e-2)
    config = TrainConfig(rates=rates, loss_mode="corrected")
    freeze(model, rates)
    optimizer = make_optimizer(model, config)
    before = [p.detach().clone() for p in model.prompt_learner.parameters()]
    images, labels = images_of("vit", 6), torch.linspace(0, 30, 6)
    bins = torch.tensor([0, 0, 1, 1, 2, 2])
    for _ in range(3):
        optimizer.zero_grad()
        total = batch_losses(model(images), labels, bins, config)["loss"]
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert len(before) == 2
    for old, new in zip(before, model.prompt_learner.parameters(), strict=True):
        assert (new - old).abs().max() > 1e-3


@pytest.mark.parametrize("mode", get_args(LossMode))
def test_loss_mode_and_optimizer_reach_the_training(mode: LossMode) -> None:
    bins = torch.tensor([0, 0, 1, 1, 2, 2])
    model = tiny_model()
    out = model(images_of("vit", 6))
    config = TrainConfig(loss_mode=mode, optimizer="radam-released", weight_decay=0.5)
    parts = batch_losses(out, torch.linspace(0, 30, 6), bins, config)
    if mode == "rps":
        assert parts["rps"] == ranked_probability_score(out.logits, torch.eye(3)[bins])
    else:
        assert parts["image_to_text"] == fcrc_image_to_text(out.logits, bins, mode)
        assert parts["text_to_image"] == fcrc_text_to_image(out.logits, bins, mode)
    optimizer = make_optimizer(model, config)
    assert type(optimizer) is RAdamReleased
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("train", 10), ("val", 5)):
        write_photos(tmp_path, name, count)
    task = TASK.to_dict()
    lines = (f"{key} = {json.dumps(value)}" for key, value in task.items())
    (tmp_path / "task.toml").write_text("\n".join(lines), "utf-8")
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    monkeypatch.chdir(tmp_path)
    command = "--train train.csv --val val.csv --task task.toml --backbone tiny.json --workers 0"
    command += " --epochs 1 --optimizer radam-released --loss-mode corrected --adapter-width 3"
    form = " --prompt rank --base-phrase dark --base-phrase bright --phrase-position front"
    form += " --rank-specific-context --rank-interpolation normal"
    result = CliRunner().invoke(main, (command + form).split())
    assert result.exit_code == 0, result.output
    config = load_checkpoint(Path("checkpoint.pt")).model.config
    assert config.adapter_width == 3
    assert config.prompts == PromptConfig(
        "rank", "front", True, base_phrases=("dark", "bright"), rank_interpolation="normal"
    )
    form = " --random-context-tokens 2 --random-rank-tokens 3 --prompt rank --num-base-ranks 2"
    result = CliRunner().invoke(main, (command + form + " -o b.pt").split())
    assert result.exit_code == 0, result.output
    learner = load_checkpoint(Path("b.pt")).model.prompt_learner
    assert learner.rank_embeds.shape == (2, 3, 32)
    assert learner.context_embeds.shape == (2, 32)
    result = CliRunner().invoke(main, [*command.split(), "--base-phrase", "dark"])
    assert result.exit_code == 2
    assert "base_phrases name the base ranks of kind 'rank'" in result.output
