"""Files as the authors' code writes them, made from its table of keys, and a plain forward pass.

Nothing here comes from the code under test: `official_table` is the list of NumCLIP's 333 keys with
their shapes, and `oracle` computes a prediction from such a state dict and the base weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numclip.checkpoint import Checkpoint, save_checkpoint
from numclip.importers.released import convert
from numclip.torchvision_compat import import_torchvision

import_torchvision()
import open_clip  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]
AGE_TOKENS = [1, 1, 2, 2, 2]  # child, teenager, young adult, middle adult, older adult
AGE_CONTEXT = "age estimation: the person is a"  # 8 tokens
AGE_PHRASES = ("child", "teenager", "young adult", "middle adult", "older adult")
AGE_EDGES = (0, 13, 19, 35, 65, 101)
SOT, EOT, STOP, PAD = 49406, 49407, 269, 0


@dataclass(frozen=True)
class Size:
    """Sizes of a ViT model; the defaults are tiny, with 2 heads in one tower and 1 in the other."""

    width: int = 128
    layers: int = 2
    patch: int = 8
    grid: int = 2
    text_width: int = 64
    text_layers: int = 3
    dim: int = 32
    bins: int = 5
    context: int = 8
    longest: int = 2

    @property
    def clip(self) -> dict[str, Any]:
        """open_clip's configuration."""
        image = {"image_size": self.patch * self.grid, "patch_size": self.patch}
        text = {"context_length": 77, "vocab_size": 49408, "heads": self.text_width // 64}
        return {
            "embed_dim": self.dim,
            "quick_gelu": True,
            "vision_cfg": image | {"width": self.width, "layers": self.layers},
            "text_cfg": text | {"width": self.text_width, "layers": self.text_layers},
        }


class ResNetSize(Size):
    """The same with a CLIP ResNet as image tower."""

    @property
    def clip(self) -> dict[str, Any]:
        """open_clip's configuration."""
        image = {"image_size": 64, "patch_size": None, "width": 8, "layers": [1, 2, 1, 1]}
        return super().clip | {"vision_cfg": image}


TINY = Size()
TINY_RESNET = ResNetSize()
VIT_B_16 = Size(768, 12, 16, 14, 512, 12, 512)


def blocks(prefix: str, width: int, layers: int) -> Shapes:
    table: Shapes = {}
    for i in range(layers):
        block = f"{prefix}.transformer.resblocks.{i}"
        table[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        table[f"{block}.attn.in_proj_bias"] = (3 * width,)
        table |= linear(f"{block}.attn.out_proj", width, width)
        for norm in ("ln_1", "ln_2"):
            table |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        table |= linear(f"{block}.mlp.c_fc", 4 * width, width)
        table |= linear(f"{block}.mlp.c_proj", width, 4 * width)
    return table


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def dead_table(size: Size) -> Shapes:
    """24 keys of the regressor that its forward pass never reaches."""
    k, dim, hidden = size.bins, size.dim, size.dim // 4
    table: Shapes = {}
    for name in ("prob", "index_offsets"):
        table |= linear(f"regressor.stage1_{name}.0", k, 2 * k)
        table |= linear(f"regressor.stage2_{name}.0", 3, 6)
    table |= linear("regressor.stage2_FC_after_PB.0", 6, 3)
    table |= linear("regressor.stage2_delta_k.0", 1, 6)
    for i in (1, 2):
        table[f"regressor.stream{i}_stage2.fc.0.weight"] = (hidden, dim)
        table[f"regressor.stream{i}_stage2.fc.2.weight"] = (dim, hidden)
        for stage, rows in ((1, k), (2, 3)):
            name = f"regressor.funsion_block_stream{i}_stage_{stage}_prediction_block"
            table |= linear(name, rows, dim)
    return table


def ordinalclip_table(size: Size) -> Shapes:
    """Keys of OrdinalCLIP and CoOp, without prefix."""
    w, t = size.width, size.text_width
    table: Shapes = {
        "image_encoder.class_embedding": (w,),
        "image_encoder.positional_embedding": (size.grid**2 + 1, w),
        "image_encoder.proj": (w, size.dim),
        "image_encoder.conv1.weight": (w, 3, size.patch, size.patch),
        "text_encoder.positional_embedding": (77, t),
        "text_encoder.text_projection": (t, size.dim),
        "prompt_learner.context_embeds": (size.context, t),
        "prompt_learner.rank_embeds": (size.bins, size.longest, t),
        "logit_scale": (),
    }
    for name, n in (("image_encoder.ln_pre", w), ("image_encoder.ln_post", w)):
        table |= {f"{name}.weight": (n,), f"{name}.bias": (n,)}
    table |= {"text_encoder.ln_final.weight": (t,), "text_encoder.ln_final.bias": (t,)}
    table |= blocks("image_encoder", w, size.layers)
    return table | blocks("text_encoder", t, size.text_layers)


def official_table(size: Size) -> Shapes:
    """Keys of NumCLIP, without prefix."""
    k, dim, hidden = size.bins, size.dim, size.dim // 4
    table = ordinalclip_table(size) | dead_table(size)
    table["image_adapter.fc.0.weight"] = (hidden, dim)
    table["image_adapter.fc.2.weight"] = (dim, hidden)
    table |= linear("regressor.stage1_FC_after_PB.0", 2 * k, k)
    return table | linear("regressor.stage1_delta_k.0", k, 2 * k)


def base_state(size: Size = TINY, seed: int = 0) -> State:
    """Base CLIP weights under open_clip's names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state: State = open_clip.CLIP(**size.clip).state_dict()
        state["token_embedding.weight"].normal_(0, 0.5)
        state["positional_embedding"].normal_(0, 0.1)
    return state


def official_state(
    base: State, size: Size = TINY, *, kind: str = "numclip", seed: int = 1
) -> State:
    """A trained model's state dict without prefix: towers of `base`, moved a little."""
    from numclip.model.text_encoder import token_ids  # BPE itself is open_clip's

    rng = torch.Generator().manual_seed(seed)
    table = official_table(size) if kind == "numclip" else ordinalclip_table(size)
    if isinstance(size, ResNetSize):
        table = {k: v for k, v in table.items() if not k.startswith("image_encoder.")}
        for key, value in part(base, "visual.").items():
            table[f"image_encoder.{key}"] = tuple(value.shape)
    state = {}
    for key, shape in table.items():
        noise = torch.randn(shape, generator=rng)
        if key.startswith("image_encoder."):
            start = base[key.replace("image_encoder.", "visual.", 1)]
            statistics = key.endswith(("running_var", "num_batches_tracked"))
            state[key] = start.clone() if statistics else start + 0.02 * noise
        elif key.startswith("text_encoder."):
            state[key] = base[key.removeprefix("text_encoder.")].clone()
        else:  # the logits are tens: larger weights would saturate the regressor's tanh
            state[key] = (0.02 if key.startswith("regressor.") else 0.3) * noise
    state["logit_scale"] = torch.tensor(100.0).log()
    table_of_words = base["token_embedding.weight"]
    context = table_of_words[token_ids(AGE_CONTEXT)]
    state["prompt_learner.context_embeds"] = context + state["prompt_learner.context_embeds"]
    ranks = state["prompt_learner.rank_embeds"]
    for row, phrase in zip(ranks, AGE_PHRASES, strict=True):
        ids = token_ids(phrase)
        row[: len(ids)] += table_of_words[ids]
        row[len(ids) :] = table_of_words[PAD]
    return state


def lightning(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Any]:
    """The content of a Lightning checkpoint with `save_weights_only=True`."""
    return {
        "epoch": 59,
        "global_step": 8220,
        "pytorch-lightning_version": "1.6.3",
        "state_dict": {prefix + key: value for key, value in state.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 60}}}},
    }


def oracle(
    state: State,
    base: State,
    images: Tensor,
    size: Size = TINY,
    *,
    offset: float = 1.0,
    shares: np.ndarray[Any, Any] | None = None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Compute values (B,) and bin_probs (B, K) of a NumCLIP or OrdinalCLIP state dict.

    `shares` (K, Kb): of interpolated prompts, each base rank's share in each bin.
    """
    clip: Any = open_clip.CLIP(**size.clip).eval()
    clip.visual.load_state_dict(part(state, "image_encoder."))
    words = base["token_embedding.weight"]
    ranks, counts = state["prompt_learner.rank_embeds"], AGE_TOKENS
    if shares is not None:
        mixed = np.einsum("kb,btw->ktw", shares, ranks.double().numpy())
        ranks, counts = torch.from_numpy(mixed).float(), [ranks.shape[1]] * len(shares)
    with torch.no_grad():
        features = clip.visual(images).double().numpy()
        clip.load_state_dict(part(state, "text_encoder."), strict=False)
        text = []
        for row, count in zip(ranks, counts, strict=True):
            sentence = words[[PAD] * 77].clone()
            sentence[0] = words[SOT]
            sentence[1:9] = state["prompt_learner.context_embeds"]
            sentence[9 : 9 + count] = row[:count]
            sentence[9 + count], sentence[10 + count] = words[STOP], words[EOT]
            x = sentence[None] + clip.positional_embedding
            x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
            text.append((x[0, 10 + count] @ clip.text_projection).double().numpy())
    numbers = {k: v.double().numpy() for k, v in state.items()}
    embeddings = np.stack(text)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    v = features
    if "image_adapter.fc.0.weight" in numbers:
        w1, w2 = numbers["image_adapter.fc.0.weight"], numbers["image_adapter.fc.2.weight"]
        v = 0.8 * relu(relu(features @ w1.T) @ w2.T) + 0.2 * features
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    logits = np.exp(numbers["logit_scale"]) * v @ embeddings.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    if "regressor.stage1_delta_k.0.weight" not in numbers:
        return p @ np.arange(size.bins) + offset, p
    name = "regressor.stage1_FC_after_PB.0"
    h = relu(logits @ numbers[f"{name}.weight"].T + numbers[f"{name}.bias"])
    name = "regressor.stage1_delta_k.0"
    delta = np.tanh(h @ numbers[f"{name}.weight"].T + numbers[f"{name}.bias"])
    lower = np.array(AGE_EDGES[:-1], float)
    terms = p[:, 1:] * lower[1:] / np.maximum(1 + delta[:, 1:], 1e-3)  # lower[0] is 0
    return terms.sum(1) + offset, p


def relu(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x * (x > 0)


def part(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def convert_file(source: Path, output: Path, **options: Any) -> Checkpoint:
    """Convert a file into another; options as of `convert`."""
    checkpoint = convert(source, **options)
    save_checkpoint(output, checkpoint)
    return checkpoint
