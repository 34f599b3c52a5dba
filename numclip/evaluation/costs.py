"""Size and work of a model, in parameters and multiply-accumulate operations (1 MAC = 2 FLOPs)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from numclip.model.numclip import NumClip


def macs_of(run: Callable[[], object]) -> int:
    """Count the MACs of what a function computes with torch."""
    # The fused attention and the inference fast path are invisible to torch's counter.
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops() // 2


def parameter_counts(model: NumClip) -> dict[str, int]:
    """Count the parameters of each part of a checkpoint's model."""
    return {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
