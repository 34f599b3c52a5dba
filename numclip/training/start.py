"""What a training is refused for in its first second; needs no torch, unless a GPU is there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from numclip.model.architectures import TIMM, check_backbone, check_pretrained
from numclip.training.config import TrainConfig
from numclip.training.loggers import LoggerName, check_loggers
from numclip.training.recipes import RecipeName, recipe_of
from numclip_runtime import UsageError
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.errors import import_extra


def check_start(
    backbone: str | None,
    pretrained: str | None,
    config: TrainConfig,
    loggers: Sequence[LoggerName],
) -> None:
    """Refuse what cannot be trained, before torch is imported or an image read.

    A backbone of None is that of a checkpoint.

    Raises:
        UsageError: if backbone or weights do not exist, or the precision needs a GPU that is
            missing.
        MissingDependencyError: if a logger's package is not installed.
    """
    if backbone is not None:
        check_backbone(backbone)
    check_pretrained(pretrained)
    if config.precision == "16-mixed" and not _has_gpu():
        raise UsageError(
            "the precision 16-mixed needs a GPU, and this machine shows none; give --precision "
            "32-true, or bf16-mixed."
        )
    check_loggers(loggers)


def _has_gpu() -> bool:
    """Return whether torch can use a GPU; it is asked only where there may be one."""
    apple = sys.platform == "darwin"
    if not apple and not Path("/dev/kfd").exists() and probe_cuda().problem is not None:
        return False  # no NVIDIA GPU, and none of AMD's
    torch = import_extra("train", "torch")
    return bool(torch.cuda.is_available() or (apple and torch.backends.mps.is_available()))


def random_start_warning(backbone: str, pretrained: str | None, recipe: RecipeName) -> str | None:
    """Return a warning where training would start from random weights by accident.

    A configuration file (.json) is a choice of the user's: small, and made to learn from nothing.
    """
    if pretrained:
        return None
    if not backbone.endswith(".json"):
        timm = backbone.startswith(TIMM)
        weights = "a file of weights" if timm else "openai, or a file of weights"
        return (
            f"{backbone} starts from random weights, and needs very many images and a GPU to learn "
            f"from nothing. Give --pretrained (such as {weights}), or a small network of your own "
            "with --backbone network.json."
        )
    if recipe_of(recipe).starts_pretrained:
        return (
            f"the recipe {recipe} is for pretrained weights: its learning rates are too low for "
            "random ones. Give --pretrained, or --recipe scratch."
        )
    return None
