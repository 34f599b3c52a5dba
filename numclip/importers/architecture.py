"""The CLIP model in a trained file: its architecture from shapes, and its base weights.

Trained files of the authors' code lack the sentence template's vectors; the base weights, from
which training started, hold them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from numclip.model.backbone import VOCABULARY, clip_config, open_clip, weights_file
from numclip.model.model_config import ClipConfig
from numclip.model.text_encoder import TEMPLATE_IDS
from numclip.weights.clip import read_clip_weights, with_text_prefix
from numclip_runtime import ModelError, UsageError

HEAD_WIDTH = 64  # of attention, in every CLIP that OpenAI released; not in the shapes
# Cosine. Published configurations freeze the text tower (1.0), and steps of 1e-5 move it little.
RELATED = 0.9
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


class Shapes:
    """The shapes under one prefix of a state dict, by key.

    Args:
        state: State dict.
        prefix: Such as "image_encoder.".
        path: File named in errors.
    """

    def __init__(self, state: Mapping[str, Tensor], prefix: str, path: Path) -> None:
        self.keys = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
        self.path = path
        self._state, self._prefix = state, prefix

    def of(self, key: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            ModelError: if it is absent or has another number of dimensions.
        """
        tensor = self._state.get(self._prefix + key)
        if tensor is None:
            raise ModelError(
                f"{self.path}: lacks {self._prefix}{key}, which determines the architecture."
            )
        if tensor.ndim != dims or 0 in tensor.shape:
            raise ModelError(
                f"{self.path}: {self._prefix}{key} has shape {list(tensor.shape)}, "
                f"expected {dims} dimensions."
            )
        return tuple(tensor.shape)

    def dims(self, key: str) -> int | None:
        """Return the number of dimensions of a tensor, None if it is absent."""
        tensor = self._state.get(self._prefix + key)
        return None if tensor is None else tensor.ndim

    def blocks(self, pattern: re.Pattern[str]) -> int:
        """Return how many blocks there are, numbered from 0 without a gap."""
        numbers = {m[1] for key in self.keys if (m := pattern.match(key))}
        return next(i for i in range(len(numbers) + 1) if str(i) not in numbers)

    def refuse(self, reason: str) -> ModelError:
        """Return an error that names the file."""
        return ModelError(f"{self.path}: {reason}.")


def config_from_shapes(image: Shapes, text: Shapes, *, quick_gelu: bool) -> ClipConfig:
    """Infer the open_clip configuration of a CLIP model from its two towers.

    Args:
        image: Keys as in open_clip's `visual`: a ViT, or a CLIP ResNet.
        text: Keys as in open_clip's text tower.
        quick_gelu: Activation, which shapes do not reveal.

    Raises:
        ModelError: if a tensor that determines it is missing, or the image tower is another.
    """
    length, width = text.of("positional_embedding", 2)
    _, embed_dim = text.of("text_projection", 2)
    return {
        "embed_dim": embed_dim,
        "quick_gelu": quick_gelu,
        "vision_cfg": _resnet(image)
        if "attnpool.positional_embedding" in image.keys
        else _vit(image),
        "text_cfg": {
            "context_length": length,
            "vocab_size": VOCABULARY,
            "width": width,
            "heads": _heads(text, width),
            "layers": text.blocks(BLOCK),
        },
    }


def _vit(image: Shapes) -> dict[str, Any]:
    width, _, patch, _ = image.of("conv1.weight", 4)
    positions, _ = image.of("positional_embedding", 2)
    _heads(image, width)
    return {
        "image_size": patch * _grid(image, positions),
        "layers": image.blocks(BLOCK),
        "width": width,
        "patch_size": patch,
    }


def _resnet(image: Shapes) -> dict[str, Any]:
    width = 2 * image.of("conv1.weight", 4)[0]  # the stem starts at half the width
    positions, _ = image.of("attnpool.positional_embedding", 2)
    return {
        "image_size": 32 * _grid(image, positions),
        "layers": [image.blocks(re.compile(rf"layer{i}\.(\d+)\.")) for i in (1, 2, 3, 4)],
        "width": width,
        "patch_size": None,
    }


def _grid(image: Shapes, positions: int) -> int:
    side = math.isqrt(positions - 1)
    if side < 1 or side**2 != positions - 1:
        raise image.refuse(f"{positions} image positions are not 1 + a square number")
    return side


def _heads(tower: Shapes, width: int) -> int:
    if width % HEAD_WIDTH:
        raise tower.refuse(
            f"a transformer {width} wide has no whole number of {HEAD_WIDTH}-wide heads"
        )
    return width // HEAD_WIDTH


def template_from_base(base: str, config: ClipConfig, positions: Tensor, path: Path) -> Tensor:
    """Return the embeddings of SOT, EOT, ".", PAD from the weights that training started from.

    Args:
        base: open_clip tag, or path of a CLIP weights file.
        config: Architecture of the trained model.
        positions: The trained model's text position embeddings (L, Wt), to check that training
            started from `base`.
        path: The trained model's file, named in errors.

    Returns:
        (4, Wt) float32.

    Raises:
        UsageError: if there are no such weights, or the model was not trained from them.
        ModelError: if the file of weights cannot be read.
    """
    file = base_file(base, config, path)
    state = with_text_prefix(read_clip_weights(file).state, custom_text=False)
    table, ours = state.get("token_embedding.weight"), state.get("positional_embedding")
    if table is None or ours is None:
        raise UsageError(f"{file}: lacks the token or position embeddings of a CLIP text tower.")
    width = positions.shape[1]
    if table.shape != (VOCABULARY, width) or ours.shape != positions.shape:
        raise UsageError(
            f"{file}: embeds {list(table.shape)} tokens at {list(ours.shape)} positions, {path} "
            f"{[VOCABULARY, width]} at {list(positions.shape)}; --base must be the CLIP model that "
            "training started from."
        )
    related = F.cosine_similarity(ours.flatten(), positions.flatten(), dim=0).item()
    if not related > RELATED:
        raise UsageError(
            f"{file}: {path} was not trained from these weights (cosine of their text position "
            f"embeddings {related:.2f}); --base must be the CLIP model that training started from."
        )
    return table[list(TEMPLATE_IDS)].clone()


def base_file(base: str, config: ClipConfig, path: Path) -> Path:
    """Return the local file of the base weights, downloading those of a tag.

    Raises:
        UsageError: if there is neither such a file nor such weights for this architecture.
    """
    if Path(base).is_file():
        return Path(base)
    names = architectures_like(config, base)
    if not names:
        raise UsageError(
            f"--base {base!r} is neither a file nor a tag under which open_clip has weights of "
            f"{path}'s architecture; give openai, or a local file of the CLIP model that training "
            "started from."
        )
    return weights_file(names[0], base)


def architectures_like(config: ClipConfig, tag: str) -> list[str]:
    """Return the open_clip architectures of `config`'s shapes that have weights named `tag`."""
    wanted = _signature(config)
    names = open_clip.list_pretrained_models_by_tag(tag)
    return [name for name in names if _signature(clip_config(name)) == wanted]


def _signature(config: ClipConfig) -> tuple[object, ...]:
    vision: dict[str, Any] = config["vision_cfg"]
    text: dict[str, Any] = config["text_cfg"]
    others = {"timm_model_name", "hf_model_name"} & {*vision, *text}
    return (
        config["embed_dim"],
        *(vision.get(key) for key in ("image_size", "layers", "width", "patch_size")),
        *(text.get(key) for key in ("context_length", "width", "heads", "layers")),
        *others,
    )
