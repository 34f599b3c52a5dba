"""Sentences in embedding space: what open_clip's own text tower makes of the same words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from numclip.model.backbone import build_clip, open_clip
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.model.prompts import PromptLearner
from numclip_runtime import UsageError
from tests.numclip.tiny import TASK, TEXT, TOWERS, tiny_model

PLAIN = TOWERS["vit"]
CUSTOM = PLAIN | {"custom_text": True}  # open_clip.CustomTextCLIP: text tower in `.text`
BIASED = CUSTOM | {"text_cfg": TEXT | {"proj_bias": True}}  # projection is a Linear layer


@pytest.mark.parametrize("config", [PLAIN, CUSTOM, BIASED], ids=["plain", "custom", "biased"])
@pytest.mark.parametrize("context", ["A photo of the_old", ""])
@torch.no_grad()
def test_features_at_start_equal_open_clip(config: dict[str, Any], context: str) -> None:
    torch.manual_seed(0)
    clip: Any = build_clip(config)
    text = getattr(clip, "text", clip)
    text.token_embedding.weight.normal_(std=0.5)  # 0.02 would drown in what follows
    task = replace(TASK, context=context, phrases=("child", "Middle adult", "2.5-year-olds"))
    features = NumClip(ModelConfig(config), task, clip).text_features()
    sentences = [f"{context} {phrase}.".replace("_", " ") for phrase in task.phrases]
    expected = clip.encode_text(open_clip.tokenize(sentences))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert (features[0] - features[1]).abs().max() > 0.1  # the phrase matters


@torch.no_grad()
def test_words_after_the_end_change_nothing() -> None:
    model = tiny_model()
    learner = model.prompt_learner
    before = model.text_features()
    sentences = learner()
    positions = model.text_encoder.positional_embedding.shape[0]
    assert sentences.shape[1] == learner.eot_index.max() + 1 < positions  # and are left out
    sentences = torch.nn.functional.pad(sentences, (0, 0, 0, positions - sentences.shape[1]))
    for row, end in zip(sentences, learner.eot_index, strict=True):
        row[end + 1 :] = torch.randn_like(row[end + 1 :])
    torch.testing.assert_close(model.text_encoder(sentences, learner.eot_index), before)
    sentences[:, 1].normal_()  # a word before the end does
    changed = model.text_encoder(sentences, learner.eot_index)
    assert (changed - before).abs().max() > 1e-3


def test_only_real_words_learn() -> None:
    model = tiny_model()
    model.text_features().square().sum().backward()  # type: ignore[no-untyped-call]
    learner = model.prompt_learner
    assert learner.num_tokens == [1, 4, 1]
    gradient = learner.rank_embeds.grad
    assert gradient is not None
    used = gradient.abs().sum(-1) > 0  # (K, r_max)
    assert used.tolist() == [[True] + [False] * 3, [True] * 4, [True] + [False] * 3]
    assert learner.context_embeds.grad is not None
    assert learner.context_embeds.grad.abs().sum(-1).all()


def test_longest_sentence() -> None:
    table = torch.zeros(49408, 1)
    context = " ".join(["photo"] * 72)
    assert PromptLearner(context, ["dark", "dim"], table, 77)().shape == (2, 77, 1)
    with pytest.raises(
        UsageError, match=r'photo very dark\." has 77 tokens, the text tower has 76.*; shorten'
    ):
        PromptLearner(context, ["dark", "very dark"], table, 76)
    with pytest.raises(UsageError, match="has 78 tokens, the text tower has 77"):
        NumClip(ModelConfig(PLAIN), replace(TASK, context=f"{context} photo photo"))
