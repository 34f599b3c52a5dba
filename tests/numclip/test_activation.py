"""The activation of CLIP weights, which no shape reveals: OpenAI's are recognised."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from numclip.model import backbone
from numclip.model.backbone import build_clip, load_backbone
from tests.numclip.tiny import TOWERS

CONFIG = {k: v for k, v in TOWERS["vit"].items() if k != "quick_gelu"}
SIZES = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
HALF = ("proj", "in_proj_weight", "in_proj_bias", "conv1.weight", "text_projection")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(build_clip(CONFIG).state_dict())


def as_state_dict(state: State, path: Path) -> None:
    torch.save(state | {name: torch.tensor(size) for name, size in SIZES.items()}, path)


def as_their_model(state: State, path: Path) -> None:
    """Write what `torch.save(clip.load(...)[0].state_dict())` does."""
    torch.save({k: v.half() if k.endswith(HALF) else v for k, v in state.items()}, path)


class Part(torch.nn.Module):
    """A module of parameters and parts, as nested as the names of a state dict."""


def as_archive(state: State, path: Path) -> None:
    root = Part()
    for key, value in state.items():
        *parents, name = key.split(".")
        part: Any = root
        for parent in parents:
            if parent not in dict(part.named_children()):
                part.add_module(parent, Part())
            part = getattr(part, parent)
        part.register_buffer(name, value.half() if key.endswith(HALF) else value)
    for name, size in SIZES.items():
        root.register_buffer(name, torch.tensor(size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, the files remain
        torch.jit.script(root).save(str(path))  # type: ignore[no-untyped-call]


def plain(state: State, path: Path) -> None:
    torch.save(state, path)


def config_file(folder: Path, **more: object) -> str:
    (folder / "tiny.json").write_text(json.dumps(CONFIG | more), "utf-8")
    return str(folder / "tiny.json")


@pytest.mark.parametrize("stated", [{}, {"quick_gelu": False}])
@pytest.mark.parametrize("write", [as_state_dict, as_their_model, as_archive])
def test_openai_files_have_quick_gelu(
    write: Any, stated: dict[str, bool], state: State, tmp_path: Path
) -> None:
    write(state, tmp_path / "ViT.pt")
    name = config_file(tmp_path, **stated)
    model, config = load_backbone(name, str(tmp_path / "ViT.pt"))
    assert config["quick_gelu"] is True
    assert any(type(part).__name__ == "QuickGELU" for part in model.modules())
    _, config = load_backbone(name, str(tmp_path / "ViT.pt"), quick_gelu=False)
    assert config["quick_gelu"] is False  # asked for


def test_an_assumption_is_said(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(state, tmp_path / "x.pt")
    _, config = load_backbone(config_file(tmp_path), str(tmp_path / "x.pt"))
    assert config["quick_gelu"] is False
    assert "GELU is assumed. Give --quickgelu" in capsys.readouterr().err
    for stated in (True, False):
        name = config_file(tmp_path, quick_gelu=stated)
        assert load_backbone(name, str(tmp_path / "x.pt"))[1]["quick_gelu"] is stated
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "pretrained", "quick"),
    [
        ("ViT-B-32", "metaclip_400m", True),
        ("ViT-B-32", "metaclip-400M", True),
        ("ViT-B-16", "dfn2b", True),
        ("ViT-B-32", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32-quickgelu", "laion400m_e32", True),
        ("ViT-B-32", "/x/vit_b_32-quickgelu-laion400m_e32-46683a32.pt", True),
        ("ViT-B-32", "/x/b32_400m.pt", True),
        ("ViT-B-32-quickgelu", "/x/other.pt", True),
        ("ViT-B-32", "/x/other.pt", False),
    ],
)
def test_records_of_open_clip(
    name: str,
    pretrained: str,
    quick: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the weights themselves, which are gigabytes: the choice alone."""
    weights = backbone.ClipWeights({}, openai=False, text=True)
    config = backbone.clip_config(name)
    assert backbone._activation(name, pretrained, config, weights) is quick
    assert ("is assumed" in capsys.readouterr().err) == (pretrained == "/x/other.pt" and not quick)
