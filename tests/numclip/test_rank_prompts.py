"""Prompts beside the default one: interpolated ranks, positions, own contexts, random words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from numclip.model.backbone import build_clip, open_clip
from numclip.model.model_config import ModelConfig, PhrasePosition, PromptConfig, RankInterpolation
from numclip.model.numclip import NumClip
from numclip.model.prompts import PromptLearner, RankPromptLearner, interpolation_weights
from numclip.model.text_encoder import EOT, FULL_STOP, PAD, SOT, token_ids
from numclip_runtime import UsageError
from tests.numclip.golden import DIGITS, case, tensor
from tests.numclip.tiny import TASK, TOWERS

IDS = torch.arange(EOT + 1.0)[:, None]  # an embedding that is the token's id
POSITIONS: tuple[PhrasePosition, ...] = ("front", "middle", "tail")
KINDS: tuple[RankInterpolation, ...] = ("linear", "inverse", "normal")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("interp_linear_R5_K3", "linear"),
        ("interp_linear_R5_K2", "linear"),
        ("interp_linear_R4_K1", "linear"),
        ("interp_linear_R101_K3_rows", "linear"),
        ("interp_inv_prop_R5_K3", "inverse"),
        ("interp_inv_prop_R5_K2", "inverse"),
        ("interp_inv_prop_R101_K3_rows", "inverse"),
        ("interp_normal_R5_K3", "normal"),
    ],
)
def test_interpolation_weights(name: str, kind: RankInterpolation) -> None:
    given, expected = case(name)
    weights = interpolation_weights(given["R"], given["K"], kind)
    assert weights.dtype == torch.float32
    rows = expected.get("weights") or list(expected.values())
    numbers = range(given["R"]) if "weights" in expected else [int(k[3:]) for k in expected]
    torch.testing.assert_close(weights[list(numbers)].double(), tensor(rows), atol=DIGITS, rtol=0)


def test_normal_interpolation_does_not_underflow() -> None:
    given, expected = case("interp_normal_R101_K3_fp32_underflow")
    base = torch.linspace(0, 100, given["K"])
    naive = (-(torch.arange(101.0)[:, None] - base).square()).exp().sum(1)
    assert (naive == 0).sum() == expected["num_rows_with_zero_sum"]
    weights = interpolation_weights(given["R"], given["K"], "normal")
    torch.testing.assert_close(weights.sum(1), torch.ones(101))
    assert weights[[10, 25, 30]].tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]
    far = interpolation_weights(1001, 3, "normal")  # exp(-250^2) is 0 in float64, too
    torch.testing.assert_close(far.sum(1), torch.ones(1001))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_are_shares_and_mirrored(kind: RankInterpolation, count: int) -> None:
    weights = interpolation_weights(5, count, kind)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert weights.min() >= 0


@pytest.mark.parametrize(("name", "kind"), [("linear", "linear"), ("inv_prop", "inverse")])
@torch.no_grad()
def test_rank_words_are_interpolated(name: str, kind: RankInterpolation) -> None:
    given, expected = case("interp_rank_embeds")
    config = PromptConfig("rank", num_base_ranks=given["K"], rank_interpolation=kind)
    learner = RankPromptLearner("a photo", given["R"], torch.rand(EOT + 1, 2), 12, config).double()
    assert learner.rank_embeds.shape == (3, 1, 2)
    learner.rank_embeds.copy_(tensor(given["base"])[:, None])
    words = learner()[:, 3]  # SOT, "a", "photo", rank
    torch.testing.assert_close(words, tensor(expected[name]), atol=DIGITS, rtol=0)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["plain", "rank"])
@torch.no_grad()
def test_layout(position: PhrasePosition, kind: str) -> None:
    context, phrase = "a photo taken in the", "young adult"
    names = {f"c{i}": word for i, word in enumerate(token_ids(context))}
    names |= {f"r{i}": word for i, word in enumerate(token_ids(phrase))}
    names |= {"SOT": SOT, "EOT": EOT, ".": FULL_STOP, "PAD": PAD}
    expected = case("prompt_layout")[1][position]
    config = PromptConfig(phrase_position=position)
    learner: PromptLearner | RankPromptLearner
    if kind == "plain":
        learner = PromptLearner(context, [phrase, "child"], IDS, 77, config)
        assert learner.num_tokens == [2, 1]
    else:
        config = replace(config, kind="rank", base_phrases=(phrase, phrase))
        learner = RankPromptLearner(context, 2, IDS, 77, config)
    sentences = learner()[:, :, 0]
    ids = [names[token] for token in expected["tokens"]]
    assert sentences[0].tolist() == ids + [PAD] * (77 - len(ids))
    assert learner.eot_index[0] == expected["eot_index"]
    rows = torch.arange(2)
    assert sentences[rows, learner.eot_index].tolist() == [EOT, EOT]


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_one_lookup_equals_putting_pieces_together(position: PhrasePosition) -> None:
    phrases = ("child", "young adult", "1930s")
    config = PromptConfig(phrase_position=position, rank_specific_context=True)
    learner = PromptLearner("a photo of the", phrases, torch.rand(EOT + 1, 3), 20, config)
    learner.context_embeds.normal_()
    learner.rank_embeds.normal_()
    sot, eot, stop, pad = learner.template[:, None]
    split = {"front": 0, "middle": 2, "tail": 4}[position]
    for k, count in enumerate((1, 2, 5)):
        context, words = learner.context_embeds[k], learner.rank_embeds[k, :count]
        pieces = [sot, context[:split], words, context[split:], stop, eot]
        pieces.append(pad.expand(20 - 7 - count, -1))
        assert torch.equal(learner()[k], torch.cat(pieces))


def test_own_contexts_start_alike_and_learn_apart() -> None:
    config = PromptConfig(rank_specific_context=True)
    learner = PromptLearner("a photo of", ["child", "adult"], torch.rand(EOT + 1, 4), 20, config)
    assert learner.context_embeds.shape == (2, 3, 4)
    assert torch.equal(learner.context_embeds[0], learner.context_embeds[1])
    learner()[0].sum().backward()
    assert learner.context_embeds.grad is not None
    assert learner.context_embeds.grad.abs().sum((1, 2)).tolist() == [12, 0]


@pytest.mark.parametrize("own", [False, True])
def test_random_words(own: bool) -> None:
    config = PromptConfig(rank_specific_context=own, random_context_tokens=10, random_rank_tokens=4)
    learner = PromptLearner("a photo of", ["", "young adult"], torch.ones(EOT + 1, 512), 20, config)
    assert learner.context_embeds.shape == ((2, 10, 512) if own else (10, 512))
    assert learner.rank_embeds.shape == (2, 4, 512)
    assert learner.num_tokens == [4, 4]
    for words in (learner.context_embeds, learner.rank_embeds):
        assert words.std().item() == pytest.approx(0.02, rel=0.05)
        assert words.mean().abs() < 0.001
    assert not torch.equal(learner.rank_embeds[0], learner.rank_embeds[1])
    assert not torch.equal(learner.context_embeds[0], learner.context_embeds[1])


@torch.no_grad()
def test_outer_base_phrases_are_plain_sentences() -> None:
    clip: Any = build_clip(TOWERS["vit"])
    clip.token_embedding.weight.normal_(std=0.5)
    prompts = PromptConfig("rank", base_phrases=("young adult", "older person"))
    model = NumClip(ModelConfig(TOWERS["vit"], prompts=prompts), TASK, clip)
    features = model.text_features()
    texts = [f"the photo is {phrase}." for phrase in prompts.base_phrases]
    expected = clip.encode_text(open_clip.tokenize(texts, 77))
    torch.testing.assert_close(features[[0, -1]], expected, atol=1e-5, rtol=1e-5)
    assert (features[0] - features[2]).abs().max() > 0.01


def test_short_base_phrase_is_filled_up() -> None:
    config = PromptConfig("rank", base_phrases=("child", "older adult"))
    learner = RankPromptLearner("a", 3, IDS, 20, config)
    assert learner.rank_embeds[:, :, 0].tolist() == [[*token_ids("child"), PAD], [7700, 7115]]
    assert learner.num_tokens == [2, 2, 2]


def test_all_base_ranks_learn() -> None:
    learner = RankPromptLearner("a", 101, torch.rand(EOT + 1, 4), 77)
    assert learner.rank_embeds.shape == (3, 1, 4)
    learner().sum().backward()
    gradient = learner.rank_embeds.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:, 0, 0], learner.interpolation.sum(0))
    assert set(learner.state_dict()) == {"context_embeds", "rank_embeds", "template"}


def _plain(config: PromptConfig, table: Tensor = IDS) -> PromptLearner:
    return PromptLearner("a photo of", ["child", "adult"], table, 20, config)


def test_sentences_that_do_not_fit() -> None:
    _plain(PromptConfig(random_context_tokens=16))
    with pytest.raises(UsageError, match=r'"\[random\] child\." has 21 tokens, the text tower'):
        _plain(PromptConfig(random_context_tokens=17))
    with pytest.raises(UsageError, match=r'"a photo of \[random\]\." has 21 tokens'):
        _plain(PromptConfig(random_rank_tokens=15))
    long = PromptConfig("rank", base_phrases=("child", "1930s 1940s"))
    with pytest.raises(UsageError, match=r'of 1930s 1940s\." has 16 tokens'):
        RankPromptLearner("a photo of", 3, IDS, 15, long)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PromptConfig("rank", num_base_ranks=4), "4 base ranks for 3 bins; give at most one"),
        (PromptConfig("rank", base_phrases=("a", " ")), "the base phrase ' ' is empty"),
    ],
)
def test_base_ranks_that_do_not_fit(config: PromptConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RankPromptLearner("a", 3, IDS, 20, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "soft"}, "'kind' must be one of plain, rank, got 'soft'"),
        ({"phrase_position": "end"}, "'phrase_position' must be one of front, middle, tail"),
        ({"rank_interpolation": "cubic"}, "must be one of linear, inverse, normal, got 'cubic'"),
        ({"random_context_tokens": -1}, "random_context_tokens must be at least 0, got -1"),
        ({"num_base_ranks": 0}, "num_base_ranks must be at least 1, got 0"),
        ({"base_phrases": ["a"]}, "base_phrases name the base ranks of kind 'rank'"),
        (
            {"kind": "rank", "base_phrases": ["a"], "random_rank_tokens": 1},
            "give one of them",
        ),
        ({"position": "front"}, r"unknown field(s) ['position']; known are ["),
    ],
)
def test_contradictory_configuration(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        PromptConfig.from_dict(fields)
