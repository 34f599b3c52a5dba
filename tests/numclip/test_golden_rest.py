"""Bins, tokens, sentences, metrics, activations and pixels against the golden cases."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from numclip.data.dataset import evaluation_transform
from numclip.evaluation.metrics import validation_metrics
from numclip.evaluation.predictions import Predictions
from numclip.model.backbone import build_clip
from numclip.model.preprocessing import STATISTICS, Statistics
from numclip.model.prompts import PromptLearner
from numclip.model.text_encoder import EOT, FULL_STOP, PAD, SOT, token_ids
from numclip.tasks import load_task
from numclip_runtime import Preprocessing, Task
from numclip_runtime.preprocess import to_input
from tests.numclip.golden import AGE_EDGES, DIGITS, GOLDEN, case, tensor
from tests.numclip.tiny import TOWERS

CLASSES = Task("five", "", tuple(range(6)), tuple("abcde"))


def test_every_case_is_covered() -> None:
    tests = Path(__file__).parent.glob("test_*.py")
    used = {name for path in tests for name in re.findall(r'\("(\w+)"', path.read_text("utf-8"))}
    assert set(GOLDEN) <= used


def test_age_bins() -> None:
    given, out = case("age_bins")
    task = load_task("age")
    assert task.bin_edges == AGE_EDGES
    assert list(task.bin_edges[:-1]) == given["lower"]
    assert [task.bin_of(label) for label in given["y"]] == out["general"]


def test_token_ids() -> None:
    _, out = case("token_ids")
    texts = {text: ids for text, ids in out.items() if isinstance(ids, list)}
    assert len(texts) == 13
    assert {text: token_ids(text) for text in texts} == texts
    assert [ids for ids in out.values() if isinstance(ids, int)] == [SOT, EOT, FULL_STOP, PAD]
    assert token_ids("young_Adult") == out["young adult"]  # underscores are spaces, no case


def test_prompt_layout() -> None:
    given, out = case("prompt_layout")
    context, phrase = "a photo taken in the", "young adult"
    ids = torch.arange(SOT + 2.0)[:, None]  # an embedding that is the token's id
    learner = PromptLearner(context, ["child", phrase], ids, 77)
    names = {f"c{i}": word for i, word in enumerate(token_ids(context))}
    names |= {f"r{i}": word for i, word in enumerate(token_ids(phrase))}
    names |= {"SOT": SOT, "EOT": EOT, ".": FULL_STOP, "PAD": PAD}
    assert len(names) == given["nctx"] + given["nrank"] + 4
    tail = out["tail"]
    sentence = learner()[1, :, 0].tolist()
    assert sentence[: len(tail["tokens"])] == [names[token] for token in tail["tokens"]]
    assert sentence[len(tail["tokens"]) :] == [PAD] * (77 - len(tail["tokens"]))
    assert learner.eot_index.tolist() == [tail["eot_index"] - 1, tail["eot_index"]]


def test_metrics() -> None:
    given, out = case("metrics")
    probs, labels = tensor(given["prob"]), torch.tensor(given["y"])
    for kind, values in (("exp", probs @ tensor(range(5))), ("max", probs.argmax(1).double())):
        assert values.tolist() == out[f"{kind}_pred"]
        found = Predictions(CLASSES, None, labels.double().numpy(), values.numpy(), probs.numpy())
        got = validation_metrics(found)
        assert got["mae"] == pytest.approx(out[f"mae_{kind}"])
        assert got["bin_accuracy"] == pytest.approx(out["acc_max"])
    assert got["rmse"] == pytest.approx(np.sqrt((4 + 1 + 0 + 1) / 4))


@pytest.mark.parametrize("quick", [False, True])
def test_activation(quick: bool) -> None:
    given, out = case("activations")
    clip = build_clip(TOWERS["vit"] | {"quick_gelu": quick}).double()
    towers = [module for name, module in clip.named_modules() if name.endswith("mlp.gelu")]
    assert len(towers) == 2  # image and text
    for activation in towers:
        expected = tensor(out["quick_gelu" if quick else "gelu"])
        torch.testing.assert_close(activation(tensor(given["x"])), expected, atol=DIGITS, rtol=0)


@pytest.mark.parametrize(("name", "key"), [("imagenet", "(used)"), ("clip", "(not used)")])
def test_pixel_normalisation(name: Statistics, key: str) -> None:
    given, out = case("pixel_norm_red_channel")
    pixels = np.zeros((3, 3, 3), np.uint8)
    pixels[0, :, 0] = np.rint(np.array(given["x"]) * 255)
    image = Image.fromarray(pixels)
    mean, std = STATISTICS[name]
    spec = Preprocessing(crop=3, resize=3, mean=mean, std=std)
    for got in (evaluation_transform(spec)(image).numpy(), to_input(image, spec)):
        np.testing.assert_allclose(got[0, 0], out[name + key], atol=DIGITS)
