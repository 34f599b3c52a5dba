"""MACs: by hand, and the same from the graph and from torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from numclip_export.fold import FoldedModel
from numclip_export.graph.costs import graph_macs, text_macs
from tests.export.chain import Chain
from tests.numclip.tiny import images_of, tiny_model


def test_graph_equals_torch(chain: Chain) -> None:
    folded = FoldedModel(chain.checkpoint.model)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        folded(images_of(chain.tower, 1))
    assert graph_macs(chain.graph) == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_text_tower_by_hand() -> None:
    model = tiny_model()
    tokens, width, prompts = model.prompt_learner.longest, 32, 3  # what follows is not computed
    linear = 12 * width * width  # q, k, v, out, and two of 4 * width
    attention = 2 * tokens * width
    expected = prompts * (tokens * (linear + attention) + width * 32)
    with torch.inference_mode():
        got = text_macs(model)
    assert got == pytest.approx(expected, rel=0.001)
