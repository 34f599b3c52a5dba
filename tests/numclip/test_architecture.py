"""`--pretrained` takes OpenAI's and open_clip's weights files, whole ones that fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from numclip.importers.architecture import Shapes, architectures_like, config_from_shapes
from numclip.model.backbone import build_clip, clip_config, load_backbone, open_clip
from numclip_runtime import ModelError, UsageError
from tests.numclip.released_files import TINY, State, lightning, official_state


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY.clip))
    return str(path)


def openai(base: State, path: Path) -> None:
    """Mixed precision, extra entries and an attribute that is no weight, as TorchScript archive."""
    root: Any = torch.nn.Module()
    for key, value in base.items():
        node = root
        *parents, name = key.split(".")
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, torch.nn.Module())
            node = getattr(node, parent)
        half = value.half() if name == "weight" and value.ndim > 1 else value
        node.register_parameter(name, torch.nn.Parameter(half))
    for name, number in (("input_resolution", 16), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(number))
    root.transformer.attn_mask = torch.zeros(77, 77)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = torch.jit.script(root)
        module.save(str(path))


FORMS: dict[str, Callable[[State, Path], object]] = {
    "plain.pt": torch.save,
    "wrapped.pt": lambda s, p: torch.save({"epoch": 3, "name": "x", "state_dict": s}, p),
    "distributed.pt": lambda s, p: torch.save({f"module.{k}": v for k, v in s.items()}, p),
    "half.pt": lambda s, p: torch.save({k: v.half() for k, v in s.items()}, p),
    "extras.pt": lambda s, p: torch.save(s | {"input_resolution": torch.tensor(16)}, p),
    "scale.pt": lambda s, p: torch.save(s | {"logit_scale": s["logit_scale"][None]}, p),
    "custom_text.pt": lambda s, p: torch.save(
        {k if k.startswith(("visual", "logit")) else f"text.{k}": v for k, v in s.items()}, p
    ),
    "open_clip.safetensors": lambda s, p: save_file(dict(s), p),
    "openai.pt": openai,
}


@pytest.mark.parametrize("name", list(FORMS))
@pytest.mark.parametrize("custom_text", [False, True])
def test_forms_of_weights(
    base: State, config: str, tmp_path: Path, name: str, custom_text: bool
) -> None:
    FORMS[name](base, tmp_path / name)
    if custom_text:
        Path(config).write_text(json.dumps(TINY.clip | {"custom_text": True}))
    model, _ = load_backbone(config, str(tmp_path / name))
    got = {k.removeprefix("text."): v for k, v in model.state_dict().items()}
    assert set(got) == set(base)
    for key, value in base.items():
        assert got[key].dtype == torch.float32
        torch.testing.assert_close(got[key], value, rtol=1e-3, atol=1e-6)


def test_downloaded_openai_archive(
    base: State, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai(base, tmp_path / "cached.pt")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(tmp_path / "cached.pt"))
    model, _ = load_backbone(config, "some-tag")
    torch.testing.assert_close(model.state_dict()["ln_final.weight"], base["ln_final.weight"])


def test_other_image_size_is_interpolated(base: State, config: str, tmp_path: Path) -> None:
    torch.save(base, tmp_path / "a.pt")
    larger = TINY.clip["vision_cfg"] | {"image_size": 24}
    Path(config).write_text(json.dumps(TINY.clip | {"vision_cfg": larger}))
    model, _ = load_backbone(config, str(tmp_path / "a.pt"))
    assert model.state_dict()["visual.positional_embedding"].shape == (10, 128)


def without_text(s: State) -> State:
    return {k: v for k, v in s.items() if k.startswith("visual.")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_text, "holds only an image tower (visual.*)"),
        (lambda s: s | {"visual.extra": torch.zeros(1)}, "unexpected 1 key (visual.extra)"),
        (
            lambda s: {k: v for k, v in s.items() if "ln_final" not in k},
            "missing 2 keys (ln_final.bias, ln_final.weight)",
        ),
        (
            lambda s: s | {"visual.proj": torch.zeros(128, 33)},
            "differently shaped 1 key (visual.proj [128, 33] for [128, 32])",
        ),
        (
            lambda s: s | {"visual.positional_embedding": torch.zeros(4, 128)},
            "differently shaped 1 key (visual.positional_embedding [4, 128] for [5, 128])",
        ),
        (
            lambda s: s | {"visual.positional_embedding": torch.zeros(5)},
            "differently shaped 1 key (visual.positional_embedding [5] for [5, 128])",
        ),
        (lambda s: lightning(official_state(s)), "`numclip-convert` reads it"),
        (lambda s: {"format": "numclip-checkpoint"}, "a trained numclip checkpoint, not weights"),
        (lambda s: {"state_dict": None}, "holds no weights"),
        (lambda s: s | {"visual.proj": print}, "refused, not plain weights and settings"),
    ],
)
def test_weights_that_do_not_fit(
    base: State,
    config: str,
    tmp_path: Path,
    change: Callable[[State], object],
    message: str,
) -> None:
    path = tmp_path / "a.pt"
    torch.save(change(base), path)
    with pytest.raises(UsageError) as caught:
        load_backbone(config, str(path))
    assert str(caught.value).startswith(f"cannot load weights {str(path)!r} into {config}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'nonsense' is neither a file nor a tag .*openai"):
        load_backbone("RN50", "nonsense")

    def offline(_: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(UsageError, match=r"'openai' into RN50: no network$"):
        load_backbone("RN50", "openai")


LARGEST = {"RN50x16", "RN50x64"}  # as RN50x4, only slower to build


@pytest.mark.parametrize("name", sorted({*open_clip.list_openai_models()} - LARGEST))
def test_architecture_is_told_by_shapes(name: str) -> None:
    with torch.device("meta"):
        state = build_clip(clip_config(name)).state_dict()
    path = Path("a.ckpt")
    image = Shapes(state, "visual.", path)
    config = config_from_shapes(image, Shapes(state, "", path), quick_gelu=True)
    want = clip_config(name)
    assert config["embed_dim"] == want["embed_dim"]
    assert {k: config["vision_cfg"][k] for k in want["vision_cfg"]} == want["vision_cfg"]
    assert config["text_cfg"] == want["text_cfg"]
    assert name in architectures_like(config, "openai")
    with torch.device("meta"):
        rebuilt = build_clip(config).state_dict()
    assert {k: v.shape for k, v in rebuilt.items()} == {k: v.shape for k, v in state.items()}


def test_shapes_name_the_file() -> None:
    with pytest.raises(
        ModelError, match=r"^a\.ckpt: lacks x\.y, which determines the architecture"
    ):
        Shapes({}, "x.", Path("a.ckpt")).of("y", 2)
