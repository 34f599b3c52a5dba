"""A coarse predictor from pretrained CLIP and a task's phrases, without any training."""

from __future__ import annotations

from dataclasses import replace

from numclip.checkpoint import Checkpoint
from numclip.model.backbone import load_backbone
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.model.preprocessing import STATISTICS, image_size
from numclip_runtime import Preprocessing, Task


def zero_shot(
    task: Task, backbone: str, pretrained: str, *, quick_gelu: bool | None = None
) -> Checkpoint:
    """Return a checkpoint of pretrained CLIP: adapter bypassed, no regressor.

    Args:
        task: Bins and phrases.
        backbone: open_clip architecture or configuration file.
        pretrained: open_clip tag or local weights file.
        quick_gelu: Activation of the weights; None: open_clip's record of them.

    Raises:
        UsageError: if the backbone or the weights are unknown or do not fit.
    """
    if task.labels_are_classes and task.whole_numbers is None:
        task = replace(task, whole_numbers=True)
    clip, config = load_backbone(backbone, pretrained, quick_gelu=quick_gelu)
    form = ModelConfig(config, adapter_ratio=0.0, regressor="expected")
    side = image_size(config)
    # CLIP's own statistics and geometry: nothing was trained
    spec = Preprocessing(side, side, "shortest", "bicubic", *STATISTICS["clip"])
    return Checkpoint(NumClip(form, task, clip).eval(), spec)
