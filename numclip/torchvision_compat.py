"""Import torchvision beside any build of torch.

torchvision's wheel for CUDA cannot load its compiled operators next to a CPU build of torch, and
its import then stops at "operator torchvision::nms does not exist". Only its Python transforms are
used here and in open_clip, so declaring the two operators' schemas is enough.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from numclip_runtime.errors import import_extra, require_installed


def require_training(*more: str) -> None:
    """Refuse at once if a package that checkpoints need is missing, or torch does not load.

    The others load after `import_torchvision` only.

    Args:
        *more: Further modules that must be installed.

    Raises:
        MissingDependencyError: naming the pip command that helps.
    """
    require_installed("train", "torch", "torchvision", "open_clip", *more)
    import_extra("train", "torch")


@functools.cache
def import_torchvision() -> Any:
    """Import torchvision, declaring its operator schemas first where they did not load.

    Call before importing open_clip, timm or pytorch_lightning.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        import torchvision

        torchvision.numclip_schemas = library  # the schemas live as long as this object
    return torchvision
