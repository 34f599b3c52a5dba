"""Image towers of timm as backbones: `timm/NAME`, without a text tower; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from numclip.model.architectures import TIMM
from numclip.model.clip_limits import check_clip_config
from numclip.model.model_config import ClipConfig
from numclip.model.preprocessing import STATISTICS, Statistics
from numclip.torchvision_compat import import_torchvision
from numclip.weights.reading import without_prefix
from numclip_runtime import UsageError
from numclip_runtime.console import say, visible
from numclip_runtime.errors import first_line

LEVELS = "levels"  # a timm_pool that open_clip does not have
TRUNK = "visual.trunk."  # before the names of timm's tensors in open_clip's adapter


class LevelTower(nn.Module):
    """Mean and standard deviation over the picture of each level of a timm tower: (B, D).

    The last level says what is in a picture; texture, damage and the number of small things show in
    the earlier ones.

    Args:
        name: timm's architecture.

    Source:
        Pooled features of several depths: Hariharan et al., "Hypercolumns" (arXiv 1411.5752);
        mean and standard deviation as a description of texture: Huang and Belongie (arXiv
        1703.06868).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import_torchvision()
        import timm

        self.trunk: Any = timm.create_model(name, num_classes=0, pretrained=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, D)."""
        features = []
        for level in self.trunk.forward_intermediates(images, intermediates_only=True):
            mean = level.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
            variance = (level - mean).square().mean((2, 3))
            features += [mean.flatten(1), (variance + 1e-6).sqrt()]
        return torch.cat(features, 1)


def timm_config(name: str, *, levels: bool = False, image_size: int | None = None) -> ClipConfig:
    """Return the open_clip configuration of a tower of timm, pooled as timm itself pools it.

    Args:
        name: Architecture, with or without a tag of weights ("mobilenetv2_100",
            "vit_small_patch14_dinov2.lvd142m"); weights come with --pretrained only.
        levels: The features are those of `LevelTower`.
        image_size: Side of the images, pixels; None: timm's record.

    Raises:
        UsageError: if timm has no such architecture, it gives no one vector per image, or not of
            images of this size.
    """
    import_torchvision()
    import timm

    vision: dict[str, Any] = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "none",
    }
    check_clip_config({"embed_dim": 1, "vision_cfg": vision})
    try:
        with torch.device("meta"):  # shapes only
            tower: Any = (
                LevelTower(name) if levels else timm.create_model(name, num_classes=0)
            ).eval()
            trunk = tower.trunk if levels else tower
            record: dict[str, Any] = vars(trunk)["pretrained_cfg"]
            size = tuple(record["input_size"])
            if image_size is not None:
                size = (size[0], image_size, image_size)
            (count, width) = tower(torch.zeros(1, *size)).shape
        assert (count, size[0]) == (1, 3)
    except MemoryError:
        raise
    except Exception as error:  # timm has a thousand architectures, some of them for other things
        reason = visible(first_line(error))[:200]
        pictures = "a picture" if image_size is None else f"a picture of {image_size} pixels"
        raise UsageError(
            f"backbone {TIMM}{name}: not a tower that turns {pictures} into one vector ({reason})."
        ) from None
    vision["timm_pool"] = LEVELS if levels else _pool(trunk)
    vision["image_size"] = size[1] if size[1] == size[2] else size[1:]
    return {"embed_dim": int(width), "vision_cfg": vision}


def _pool(trunk: Any) -> str:
    """Return the name of timm's own pooling of a tower: "avg", "token", "map" ..."""
    for owner in (trunk, getattr(trunk, "head", None)):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str) and pool:
            return pool
    return "avg"


def say_other_statistics(name: str, normalize: Statistics) -> None:
    """Warn where timm records other pixel statistics for a tower's weights than the chosen ones.

    Args:
        name: timm's architecture.
        normalize: Chosen statistics.
    """
    import timm

    record = timm.get_pretrained_cfg(name)
    right = [key for key, value in STATISTICS.items() if record and value[0] == record.mean]
    if right and normalize not in right:
        say(
            f"Warning: timm's weights for {name} expect other pixel statistics: give --normalize "
            f"{right[0]} if these are timm's."
        )


def timm_trunk_state(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Rename a timm file's tensors to those of open_clip's adapter; its classifier is left out.

    Args:
        state: Tensors of a file, named as timm does; "module." and the like before it are stripped.
        own: State dict of the model to load into.
        name: timm's architecture, whose record names the classifier.

    Returns:
        Tensors for the trunk, and the model's own for all else, such as its logit scale.
    """
    import timm

    trunk = {key.removeprefix(TRUNK) for key in own if key.startswith(TRUNK)}
    bare = without_prefix(state, tuple(trunk), more=(TRUNK, "trunk."))
    record = timm.get_pretrained_cfg(name)
    named = (record and record.classifier) or ()
    classifiers = (named,) if isinstance(named, str) else tuple(named)
    kept = {k: v for k, v in bare.items() if k.rpartition(".")[0] not in classifiers or k in trunk}
    # Nothing uses the counters of batches, and converted files lack them
    spared = (key for key in own if not key.startswith(TRUNK) or key.endswith("_batches_tracked"))
    others = {key: own[key] for key in spared}
    return others | {TRUNK + key: value for key, value in kept.items()}
