"""The CLIP backbone, from open_clip: a named architecture or a configuration file."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from numclip.model.architectures import TIMM, unknown_backbone
from numclip.model.clip_limits import VOCABULARY, check_clip_config, check_text_tower
from numclip.model.model_config import ClipConfig
from numclip.model.spectrum import SPECTRUM, SpectrumTower
from numclip.model.timm_towers import LEVELS, LevelTower, timm_config, timm_trunk_state
from numclip.torchvision_compat import import_torchvision
from numclip.weights.clip import ClipWeights, read_clip_weights, with_text_prefix
from numclip.weights.reading import check_fit, read_content, state_of
from numclip_runtime import ModelError, UsageError
from numclip_runtime.console import say, visible
from numclip_runtime.errors import first_line
from numclip_runtime.fields import parse_json
from numclip_runtime.files import read_limited

import_torchvision()
import open_clip  # noqa: E402

MAX_CONFIG = 1 << 20  # bytes; those of open_clip have less than 1,000
IMAGE_FIELDS = ("embed_dim", "vision_cfg", "quick_gelu", "init_logit_scale")

__all__ = [
    "VOCABULARY",
    "ClipWeights",
    "build_clip",
    "clip_config",
    "image_config",
    "load_backbone",
    "open_clip",
    "weights_file",
]


def clip_config(
    name_or_path: str, *, levels: bool = False, image_size: int | None = None
) -> ClipConfig:
    """Return an open_clip configuration by architecture name ("ViT-B-32") or JSON file.

    "timm/NAME" is an image tower of timm, whose configuration has no "text_cfg"; only of these are
    `levels` and `image_size`, see `timm_config`.

    Raises:
        UsageError: if the name is unknown, the file is not such a configuration, or a choice is not
            possible.
    """
    if name_or_path.startswith(TIMM):
        name = name_or_path.removeprefix(TIMM)
        return timm_config(name, levels=levels, image_size=image_size)
    if levels or image_size is not None:
        flag = "--features levels" if levels else "--image-size"
        raise UsageError(
            f"{flag} is for image towers of timm (--backbone timm/NAME); {name_or_path} has the "
            "features and the image size of its configuration."
        )
    if name_or_path.endswith(".json"):
        return _config_file(Path(name_or_path))
    config = open_clip.get_model_config(name_or_path)
    if config is None:
        raise unknown_backbone(name_or_path)
    return dict(config)


def _config_file(path: Path) -> ClipConfig:
    try:
        config = parse_json(read_limited(path, MAX_CONFIG).decode())
    except (OSError, ValueError) as error:  # UsageError of a large file, UnicodeDecodeError
        reason = str(error).removeprefix(f"{path}: ")
        raise UsageError(f"{visible(path)}: cannot read this configuration ({reason}).") from None
    if not (
        isinstance(config, dict)
        and "embed_dim" in config
        and isinstance(config.get("vision_cfg"), dict)
        and isinstance(config.get("text_cfg"), dict)
    ):
        raise UsageError(
            f"{visible(path)}: lacks embed_dim, vision_cfg or text_cfg of an open_clip "
            "configuration."
        )
    return config


def image_config(config: ClipConfig) -> ClipConfig:
    """Return the configuration of the image tower alone."""
    return {name: config[name] for name in IMAGE_FIELDS if name in config}


class _ImageTower(nn.Module):
    """What is left of an open_clip model without its text tower: `visual` and `logit_scale`."""

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: dict[str, Any],
        quick_gelu: bool = False,
        init_logit_scale: float = math.log(1 / 0.07),  # open_clip's own
    ) -> None:
        super().__init__()
        if SPECTRUM in vision_cfg:
            self.visual: nn.Module = SpectrumTower.of(vision_cfg, embed_dim)
        elif vision_cfg.get("timm_pool") == LEVELS:
            self.visual = LevelTower(vision_cfg["timm_model_name"])
        else:
            self.visual = open_clip.model._build_vision_tower(embed_dim, vision_cfg, quick_gelu)
        self.logit_scale = nn.Parameter(torch.ones([]) * init_logit_scale)


def build_clip(config: ClipConfig, *, words: bool = True) -> nn.Module:
    """Build an open_clip model with random weights from its configuration; fetches nothing.

    Args:
        config: Without "text_cfg", it has an image tower only.
        words: Prompts will be learned in front of its text tower, which must be of CLIP's kind.

    Raises:
        UsageError: if the configuration is beyond the limits, or open_clip cannot build it.
    """
    check_clip_config(config)
    if words:
        check_text_tower(config)
    arguments = copy.deepcopy(config)
    custom = arguments.pop("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        model: nn.Module = (kind if "text_cfg" in config else _ImageTower)(**arguments)
    except MemoryError:
        raise
    except Exception as error:  # open_clip and timm check little: any type comes out of them
        reason = visible(first_line(error))[:300]
        raise UsageError(f"open_clip cannot build this configuration ({reason}).") from None
    return model


def load_backbone(
    name: str,
    pretrained: str | None = None,
    *,
    quick_gelu: bool | None = None,
    words: bool = True,
    levels: bool = False,
    image_size: int | None = None,
) -> tuple[nn.Module, ClipConfig]:
    """Load an open_clip model, or an image tower of timm.

    Args:
        name: Architecture ("ViT-B-16", "timm/mobilenetv2_100") or configuration file (.json).
        pretrained: open_clip tag ("openai", "laion2b_s34b_b88k") or path of a local weights file:
            open_clip's .pt, .bin or .safetensors, OpenAI's .pt, or timm's for its towers. It is
            read as data, not run. None: random weights.
        quick_gelu: Activation of the weights. None: QuickGELU for OpenAI's own files, which are
            recognised; open_clip's record of a tag, or of a file that it would download; else the
            configuration's own, said on stderr where that is only assumed.
        words: False where no prompts will be learned: any text tower will do, or none. It is left
            out where it is of Hugging Face, has no weights, or the file holds none.
        levels: Of a tower of timm, see `timm_config`.
        image_size: Of a tower of timm, see `timm_config`.

    Returns:
        The model, and the configuration that rebuilds it.

    Raises:
        UsageError: if the name, tag or file is unknown or does not fit.
    """
    config = clip_config(name, levels=levels, image_size=image_size)
    if not words and (not pretrained or config.get("text_cfg", {}).get("hf_model_name")):
        config = image_config(config)
    if not pretrained:
        if quick_gelu is not None:
            config["quick_gelu"] = quick_gelu
        return build_clip(config, words=words), config
    check_clip_config(config)
    if words:
        check_text_tower(config)
    file = weights_file(name, pretrained)
    try:
        if name.startswith(TIMM):
            model = build_clip(config, words=False)
            load_trunk(model, name.removeprefix(TIMM), file)
            return model, config
        weights = read_clip_weights(file, words=words)
        if quick_gelu is None:
            quick_gelu = _activation(name, pretrained, config, weights)
        config["quick_gelu"] = quick_gelu
        state = weights.state
        if not words and ("text_cfg" not in config or not weights.text):
            config = image_config(config)
            state = {k: v for k, v in state.items() if k.startswith("visual.")}
        model = build_clip(config, words=words)
        load_clip_weights(model, state, file)
    except ModelError as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise UsageError(f"cannot load weights {pretrained!r} into {name}: {reason}") from None
    return model, config


def load_trunk(model: nn.Module, name: str, file: Path) -> None:
    """Load a file of timm's weights into its tower, all of them or none; the classifier is left.

    Args:
        model: Of `build_clip`.
        name: timm's architecture.
        file: Read as data; named in errors.

    Raises:
        ModelError: if it cannot be read, or does not fit; names the keys.
    """
    own = model.state_dict()
    state = timm_trunk_state(state_of(read_content(file), file), own, name)
    check_fit(own, state, file, "this architecture")
    model.load_state_dict(state)


def _activation(name: str, pretrained: str, config: ClipConfig, weights: ClipWeights) -> bool:
    """Return whether weights were trained with QuickGELU; no shape of theirs reveals it."""
    if weights.openai:
        return True
    tag = _records(name).get(pretrained.replace("-", "_").lower())
    if tag is None:  # a file: perhaps one of open_clip's under its own name
        same = [t for t in _records(name).values() if Path(pretrained).name in _files(t)]
        tag = same[0] if same else None
    if tag is not None:
        return bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    if "quick_gelu" in config:
        return bool(config["quick_gelu"])
    say(
        f"Warning: {pretrained}: no file says whether its CLIP model has GELU or QuickGELU; GELU "
        "is assumed. Give --quickgelu for fine-tunes of OpenAI's weights, or --gelu."
    )
    return False


def _records(name: str) -> dict[str, dict[str, Any]]:
    """Return open_clip's records of the weights for an architecture, by tag."""
    if name.endswith(".json") or name.startswith(TIMM):
        return {}
    tags = open_clip.list_pretrained_tags_by_model(name)
    return {tag: open_clip.get_pretrained_cfg(name, tag) for tag in tags}


def _files(tag: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that open_clip's download of a tag may have."""
    return tuple(str(tag.get(key) or "").rpartition("/")[2] for key in ("url", "hf_filename"))


def weights_file(name: str, pretrained: str) -> Path:
    """Return a local weights file, or download the one that open_clip has for `name` and a tag.

    Raises:
        UsageError: if there is neither, or the download fails.
    """
    if Path(pretrained).is_file():
        return Path(pretrained)
    try:
        file = open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained))
    except Exception as error:  # hub and network errors share no type
        reason = first_line(error)[:300]
        raise UsageError(f"cannot load weights {pretrained!r} into {name}: {reason}") from None
    if not file:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UsageError(
            f"{pretrained!r} is neither a file nor a tag of open_clip for {name} (tags: {tags})."
        )
    return Path(file)


def load_clip_weights(model: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Load the weights of a CLIP model into an open_clip model, all of them or none.

    Image position embeddings of another image size are interpolated, as open_clip does.

    Args:
        model: Model to load into.
        weights: Of `read_clip_weights`.
        file: Named in errors.

    Raises:
        ModelError: if they do not fit; names the keys.
    """
    state = open_clip.convert.convert_state_dict(model, weights)
    state = with_text_prefix(state, custom_text=hasattr(model, "text"))
    own = model.state_dict()
    if "logit_scale" in state and state["logit_scale"].numel() == own["logit_scale"].numel():
        state["logit_scale"] = state["logit_scale"].reshape(own["logit_scale"].shape)
    with contextlib.suppress(RuntimeError, ValueError, IndexError):  # check_fit names the keys
        open_clip.model.resize_pos_embed(state, model)
    check_fit(own, state, file, "this architecture")
    model.load_state_dict(state)
