"""Prototypes: vectors in place of words; no text tower in training, checkpoint or export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.cli.train import main
from numclip.data.prepare import DataConfig
from numclip.model.backbone import build_clip, image_config, open_clip
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.model.prototypes import text_vectors
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.optim import freeze, make_optimizer
from numclip.training.run import TrainOptions, initial_model
from numclip_export.fold import FoldedModel
from numclip_runtime import UsageError
from tests.numclip.tiny import TASK, TEXT, TOWERS, images_of, spec_of, tiny_model, write_photos

VIT = image_config(TOWERS["vit"])
OTHER = TOWERS["vit"] | {  # SigLIP 2's mechanics: another tokenizer, read out at the end
    "custom_text": True,
    "text_cfg": TEXT | {"vocab_size": 300, "hf_tokenizer_name": "org/x", "pool_type": "last"},
}


def options(folder: Path, config: dict[str, Any] = TOWERS["vit"], **given: Any) -> TrainOptions:
    """Return options of a training that would start from saved random weights."""
    torch.manual_seed(3)
    clip = build_clip(config, words=False)
    torch.save(clip.state_dict(), folder / "clip.pt")
    (folder / "clip.json").write_text(json.dumps(config), "utf-8")
    data = DataConfig(folder / "train.csv", val_share=0.2)
    return TrainOptions(
        TASK, data, backbone=str(folder / "clip.json"), pretrained=str(folder / "clip.pt"),
        vectors="prototypes", **given,
    ).resolved()  # fmt: skip


def test_start_is_what_the_text_tower_says(tmp_path: Path) -> None:
    model = initial_model(options(tmp_path))
    clip: Any = build_clip(TOWERS["vit"])
    clip.load_state_dict(torch.load(tmp_path / "clip.pt"))
    said = [f"{TASK.context} {phrase}." for phrase in TASK.phrases]
    want = clip.eval().encode_text(open_clip.tokenize(said))
    torch.testing.assert_close(model.text_features(), F.normalize(want, dim=-1))
    words = NumClip(ModelConfig(TOWERS["vit"]), TASK, clip).eval()  # the same predictor at first
    images = images_of("vit", 3)
    words.image_adapter.load_state_dict(model.image_adapter.state_dict())
    torch.testing.assert_close(model.eval()(images).logits, words(images).logits)


def test_random_start_knows_no_words(tmp_path: Path) -> None:
    said = initial_model(options(tmp_path)).text_features()
    drawn = initial_model(options(tmp_path, prototypes="random")).text_features()
    assert (said - drawn).abs().max() > 0.05
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(3))
    without = TrainOptions(
        TASK, DataConfig(tmp_path / "x.csv", val_share=0.2), backbone=str(tmp_path / "clip.json"),
        vectors="prototypes",
    ).resolved()  # fmt: skip
    assert initial_model(without).text_features().shape == (3, 32)


class _Tokenizer:
    """Stands in for a tokenizer that is fetched."""

    def __init__(self, name: str, context_length: int, **_: object) -> None:
        assert name == "org/x"
        self.length = context_length

    def __call__(self, texts: list[str]) -> torch.Tensor:
        rows = [[ord(c) % 300 for c in text][: self.length] for text in texts]
        return torch.tensor([[0] * (self.length - len(row)) + row for row in rows])


def test_any_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", _Tokenizer)
    model = initial_model(options(tmp_path, OTHER))
    clip: Any = build_clip(OTHER, words=False)
    clip.load_state_dict(torch.load(tmp_path / "clip.pt"))
    said = [f"{TASK.context} {phrase}." for phrase in TASK.phrases]
    want = F.normalize(clip.eval().encode_text(_Tokenizer("org/x", 77)(said)), dim=-1)
    torch.testing.assert_close(model.text_features(), want)
    assert (want[0] - want[1]).abs().max() > 1e-3
    assert not any("text" in name for name in model.state_dict())
    torch.testing.assert_close(text_vectors(clip, OTHER, said), want)


def test_tokenizer_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network\nand a traceback")

    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", offline)
    with pytest.raises(UsageError, match=r"tokenizer org/x \(no network\).*--prototypes random"):
        initial_model(options(tmp_path, OTHER))
    drawn = initial_model(options(tmp_path, OTHER, prototypes="random"))
    assert drawn.text_features().shape == (3, 32)


@pytest.mark.parametrize("tower", list(TOWERS))
@torch.no_grad()
def test_round_trip_and_fold(tower: str, tmp_path: Path) -> None:
    model = tiny_model(tower, vectors="prototypes", clip=image_config(TOWERS[tower]))
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model, spec_of(tower)))
    loaded = load_checkpoint(tmp_path / "a.pt").model
    names = list(loaded.state_dict())
    assert "prototypes.weight" in names
    assert not any(name.startswith(("text_encoder", "prompt_learner")) for name in names)
    images = images_of(tower, 3)
    for got, want in zip(loaded(images), model(images), strict=True):
        assert torch.equal(got, want)
    values, probs = FoldedModel(loaded)(images)
    torch.testing.assert_close(values, model(images).values, atol=1e-4, rtol=0)
    torch.testing.assert_close(probs, model(images).bin_probs, atol=1e-5, rtol=0)
    assert probs.std(0).min() > 1e-4


def test_prototypes_learn_with_the_rate_of_the_words() -> None:
    model = tiny_model(vectors="prototypes", clip=VIT)
    rates = LearningRates(image=0, rank=1e-2)
    freeze(model, rates)
    optimizer = make_optimizer(model, TrainConfig(rates=rates))
    before = model.prototypes.weight.detach().clone()
    model(images_of("vit", 4)).fine.sum().backward()
    optimizer.step()
    assert (model.prototypes.weight - before).abs().max() > 1e-3
    freeze(model, LearningRates(rank=0))
    assert not model.prototypes.weight.requires_grad


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path, "train", 8)
    write_photos(tmp_path, "val", 4)
    lines = (f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items())
    (tmp_path / "task.toml").write_text("\n".join(lines), "utf-8")
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    given = "--train train.csv --val val.csv --task task.toml --workers 0 --vectors prototypes"
    return [*given.split(), "--backbone", "tiny.json"]


@pytest.mark.parametrize("backbone", ["tiny.json", "timm/test_efficientnet"])
def test_command_trains_without_a_text_tower(command: list[str], backbone: str) -> None:
    form = ["--backbone", backbone, "--epochs", "1", "--lr-rank", "0.01"]
    result = CliRunner().invoke(main, [*command, *form])
    assert result.exit_code == 0, result.output
    model = load_checkpoint(Path("checkpoint.pt")).model
    assert "text_cfg" not in model.config.clip
    assert (model.prototypes.weight.norm(dim=-1) - 1).abs().max() > 1e-4  # has moved


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--prototypes", "text"], "--prototypes text: there are no weights of a text tower"),
        (["--vectors", "words", "--backbone", "timm/test_vit"], "no text tower to compare words"),
        (["--backbone", "timm/nonsense"], "'nonsense' is no architecture of timm"),
        (["--backbone", "timm/hf-hub:org/x"], "is no architecture of timm; names such as hf-hub"),
        (["--backbone", "timm/test_vit", "--pretrained", "tag"], "is neither a file nor a tag"),
    ],
)
def test_refused_in_a_sentence(command: list[str], given: list[str], reason: str) -> None:
    result = CliRunner().invoke(main, [*command, *given])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
    assert "Traceback" not in result.output
